"""Uncertainty-informed mutual learning (UML): joint classification and segmentation, each informed by vacuity."""

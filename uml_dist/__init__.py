"""Distributed training of uncertainty-aware joint classification and segmentation."""

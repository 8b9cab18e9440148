"""Encoders: an image in, features at the scales 1, 1/2, 1/4 and 1/8 out."""

from .compact import CompactEncoder

__all__ = ["CompactEncoder"]

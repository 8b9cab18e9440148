"""Metrics: figures of cases, formed by families, with bootstrap intervals over the cases."""

from .cases import Case, Cases
from .summary import summarise

__all__ = ["Case", "Cases", "summarise"]

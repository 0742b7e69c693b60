"""Maskmill turns image archives into queryable masks."""

__version__ = "0.1.0"

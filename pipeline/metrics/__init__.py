"""Metrics: exact counts per image, and the scores that follow from their sums."""

"""Counts and the numbers that follow from them."""

"""Faults of a cluster and of its store, each laid on a real run; `make scorecard` lists them."""

"""The logger for what a command does before there is progress to show: loading weights, listing, starting Ray."""

import logging

PHASES = logging.getLogger("pipeline.phase")

"""The log in which a command says what it does before there is progress to show: loading weights, listing, starting Ray."""

import logging

PHASES = logging.getLogger("pipeline.phase")

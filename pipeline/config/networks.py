"""The networks that a config can name, with their size, work and source, as `maskmill models` lists them.

They stand in networks.json, which `python -m tests.network_sizes` writes, so that the list is there at once: counting them
builds every network, and takes torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parent / "networks.json"
CLASSES, HEIGHT, WIDTH = 19, 512, 1024  # of what was counted


@dataclass(frozen=True)
class NetworkRow:
    """One line of `maskmill models`."""

    name: str
    variant: str
    parameters: int | None  # with 19 classes; None of networks from outside, which are of any size
    gflops: float | None  # of one 512x1024 image, a multiplication and an addition counted as two
    source: str


def networks() -> list[NetworkRow]:
    """Every network, those from outside last."""
    return [NetworkRow(**row) for row in json.loads(TABLE.read_text())]

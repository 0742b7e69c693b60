"""The networks that a config can name, with parameters, GFLOPs and source, as `maskmill models` lists them.

The list is read from networks.json, which `python -m tests.network_sizes` writes, because counting parameters and GFLOPs
would need torch and build every network.
"""

import json
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parent / "networks.json"
CLASSES, HEIGHT, WIDTH = 19, 512, 1024  # for which parameters and GFLOPs were counted


@dataclass(frozen=True)
class NetworkRow:
    """One line of `maskmill models`."""

    name: str
    variant: str
    parameters: int | None  # with 19 classes; None for networks from other sources, which can have any size
    gflops: float | None  # for one 512x1024 image; a multiply-add counts as two
    source: str


def networks() -> list[NetworkRow]:
    """Return every network, those from other sources last."""
    return [NetworkRow(**row) for row in json.loads(TABLE.read_text())]

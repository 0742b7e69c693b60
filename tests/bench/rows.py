"""Rows of the book: what was measured, our figure, each peer's, their ratio, and the limit of the machine.

A chapter calls `record`; if the book runs the chapter, the row goes into the book's file, otherwise nowhere.
"""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

FILE = "MASKMILL_BENCH_ROWS"  # environment: where a chapter's rows go, a line of JSON each
DRAWS = 1000  # of the interval


@dataclass(frozen=True)
class Limit:
    """The least that must move or be computed for ours, by so many threads."""

    kind: Literal["bytes", "flops", "ideal"]
    amount: float
    words: str  # how it is counted
    threads: int = 1
    peak: float | None = None  # amount a second; None: of the memory or the arithmetic units, as the book measures them


@dataclass(frozen=True)
class Peer:
    """Another program, or another way, and the ratio: above 1 where ours is better."""

    name: str
    value: float
    ratio: float | None  # None where one of both is 0
    low: float | None  # 95 % over the rounds; all of them where they are few
    high: float | None

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ratio, low and high, or nothing."""
        return tuple(value for value in (self.ratio, self.low, self.high) if value is not None)


@dataclass(frozen=True)
class Row:
    """Medians over rounds in which ours and the peers took turns."""

    name: str
    unit: str
    ours: float
    peers: tuple[Peer, ...]
    limit: Limit | None
    no_limit: str  # why there is none
    seconds: float  # of ours, for the limit
    chapter: str = ""

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "Row":
        limit = values["limit"] and Limit(**values["limit"])
        return cls(**values | {"limit": limit, "peers": tuple(Peer(**peer) for peer in values["peers"])})


def record(
    name: str,
    unit: str,
    ours: Sequence[float],
    peers: Mapping[str, Sequence[float]],
    limit: Limit | str,
    *,
    more_is_better: bool = False,
    seconds: float | None = None,
) -> None:
    """Keep a row.

    Args:
        ours, peers: a number a round, in `unit`.
        limit: what the machine allows, or why no such number makes sense here.
        seconds: of ours, for the limit; the median of `ours` where it is left out and its unit is s, ms or µs.
    """
    if not (file := os.environ.get(FILE)):
        return
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    if seconds is None:
        seconds = statistics.median(ours) * units.get(unit.split()[0], float("nan"))
    row = Row(
        name, unit, statistics.median(ours),
        tuple(_peer(peer, ours, theirs, more_is_better) for peer, theirs in peers.items()),
        None if isinstance(limit, str) else limit, limit if isinstance(limit, str) else "", seconds,
    )  # fmt: skip
    with Path(file).open("a") as rows:
        rows.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def _peer(name: str, ours: Sequence[float], theirs: Sequence[float], more_is_better: bool) -> Peer:
    above, below = (ours, theirs) if more_is_better else (theirs, ours)
    value = statistics.median(theirs)
    return Peer(name, value, *(interval(above, below) if min(*above, *below) > 0 else (None, None, None)))


def interval(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of the medians with its 95 % over the rounds, drawn anew 1000 times; from least to most below five rounds."""
    top, bottom = np.asarray(above, np.float64), np.asarray(below, np.float64)
    ratio = float(np.median(top) / np.median(bottom))
    if len(top) < 5:
        ratios = [ratio, *(top / bottom)]
        return ratio, float(min(ratios)), float(max(ratios))
    drawn = np.random.default_rng(0).integers(0, len(top), (DRAWS, len(top)))
    ratios_drawn = np.median(top[drawn], axis=1) / np.median(bottom[drawn], axis=1)
    low, high = np.quantile(ratios_drawn, (0.025, 0.975))
    return ratio, float(low), float(high)


def read_rows(file: Path, chapter: str) -> list[Row]:
    """What a chapter recorded."""
    return [Row.parse(json.loads(line) | {"chapter": chapter}) for line in file.read_text().splitlines()]

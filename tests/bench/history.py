"""Compare a run of the book with the ratios of earlier runs, to find rows that became worse.

The file has one line of JSON per run, row and peer. It holds ratios, never times, and a row is only compared with runs on the
same kind of machine. If ours became slower, its ratios to all peers fall together; if one ratio falls alone, that peer changed.
So the change of a row is the median over its peers (of several, the steadier half) of the ratio divided by the median of the
newest runs. A row is worse if even the upper end of the change's interval is more than 10 % below 1, or more than the row's own
noise if that is larger: three standard deviations of earlier changes, from their median absolute deviation.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.bench.rows import Row

FILE = Path(__file__).parent.parent.parent / "configs" / "bench_history.jsonl"
WORSE, NEWEST = 0.10, 20  # a share of the ratio; runs that are looked at
FEW, UNKNOWN = 4, 0.25  # below so many runs a row's noise is not known, and only a greater fall is told
SIGMAS, TO_SIGMA = 3, 1.4826  # a normal distribution's standard deviation over its median absolute deviation

Key = tuple[str, str]  # chapter, row
Earlier = dict[str, dict[str, float]]  # peer -> run -> ratio, the oldest first


@dataclass(frozen=True)
class Past:
    """One ratio of one run."""

    date: str
    commit: str
    machine: str
    chapter: str
    row: str
    peer: str
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """A row beside earlier runs; changes are factors, 1 where nothing changed."""

    runs: dict[str, float]  # run -> its change, the oldest first
    peers: dict[str, float]  # peer -> change of its ratio
    change: float
    low: float
    high: float
    band: float  # a fall by more than this share is told

    @property
    def worse(self) -> bool:
        return self.high < 1 - self.band


def read(file: Path) -> list[Past]:
    """Every line, the oldest first; nothing where there is no file."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [Past(**json.loads(line)) for line in lines if line]


def add(file: Path, run: Iterable[Past]) -> None:
    """Append the lines of one run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as history:
        history.writelines(json.dumps(asdict(past), ensure_ascii=False) + "\n" for past in run)


def lines_of(rows: Iterable[Row], date: str, commit: str, machine: str) -> list[Past]:
    """What a run leaves in the history."""
    return [
        Past(date, commit, machine, row.chapter, row.name, peer.name, *(float(f"{value:.4g}") for value in peer.ratios))
        for row in rows
        for peer in row.peers
        if peer.ratios
    ]


def by_row(history: Iterable[Past], machine: str) -> dict[Key, Earlier]:
    """The newest runs of each row on this kind of machine."""
    found = defaultdict[Key, Earlier](lambda: defaultdict(dict))
    for past in history:
        if past.machine == machine:
            found[past.chapter, past.row][past.peer][f"{past.date} {past.commit}"] = past.ratio
    return {
        key: {peer: dict(list(runs.items())[-NEWEST:]) for peer, runs in peers.items()} for key, peers in found.items()
    }


def noise(ratios: Sequence[float]) -> float:
    """The share of a ratio that three standard deviations of its history are."""
    if len(ratios) < FEW:
        return UNKNOWN
    logs = np.log(ratios)
    sigma = TO_SIGMA * float(np.median(np.abs(logs - np.median(logs))))
    return float(1 - np.exp(-SIGMAS * sigma))


def judge(row: Row, earlier: Earlier) -> Verdict | None:
    """A row beside its history; None where it has none."""
    known = [peer for peer in row.peers if peer.ratios and earlier.get(peer.name)]
    if not known:
        return None
    steady = sorted(known, key=lambda peer: noise(list(earlier[peer.name].values())))
    if len(known) > 1 and all(len(earlier[peer.name]) >= FEW for peer in known):
        steady = steady[: (len(known) + 1) // 2]
    medians = {peer.name: statistics.median(earlier[peer.name].values()) for peer in known}

    def change(ratios: Mapping[str, float]) -> float:
        return statistics.median(ratios[peer.name] / medians[peer.name] for peer in steady if peer.name in ratios)

    names = dict.fromkeys(run for peer in steady for run in earlier[peer.name])
    runs = {
        run: change({peer.name: earlier[peer.name][run] for peer in steady if run in earlier[peer.name]})
        for run in names
    }
    peers = {peer.name: peer.ratios[0] / medians[peer.name] for peer in known}
    now, low, high = (change({peer.name: peer.ratios[end] for peer in known}) for end in range(3))
    return Verdict(runs, peers, now, low, high, max(WORSE, noise(list(runs.values()))))


def worse(rows: Iterable[Row], history: Mapping[Key, Earlier]) -> dict[Key, Verdict]:
    """The rows that are to be told."""
    found = {(row.chapter, row.name): judge(row, history.get((row.chapter, row.name), {})) for row in rows}
    return {key: verdict for key, verdict in found.items() if verdict is not None and verdict.worse}

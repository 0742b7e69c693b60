"""The book as one HTML file: the tables with a plot in each row, without scripts or external resources."""

import ast
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.metrics import charts
from tests.bench import history, machine, plots
from tests.bench.history import Earlier, Key, Verdict
from tests.bench.rows import Row

FOLDER = Path(__file__).parent
KINDS = {"bytes": ("memory's rate", 1e9, "GB/s"), "flops": ("arithmetic's rate", 1e9, "GFLOP/s")}
INKS = {"bytes": "accent", "flops": "other", "ideal": "raw"}


@dataclass(frozen=True)
class About:
    """Where, when and how the book was run, and what the machine was found to do at its best."""

    date: str
    commit: str
    machine: str
    command: str
    memory_gib: float
    load: float  # mean number of busy processes in the minute before
    versions: Mapping[str, str]
    peaks: Mapping[str, Mapping[str, float]]
    device: str | None
    minutes: dict[str, tuple[float, float]] = field(default_factory=dict)  # chapter -> wall, processor time

    @classmethod
    def of_this_run(cls, arguments: Sequence[str]) -> "About":
        load = os.getloadavg()[0]
        command = [sys.executable, "-m", "tests.bench.machine", "--json"]
        peaks = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return cls(
            datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), machine.commit(), machine.kind(),
            shlex.join(["python", "-m", "tests.bench", *arguments]), machine.memory_gib(), load, machine.versions(),
            {name: peaks[name] for name in KINDS}, peaks["device"],
        )  # fmt: skip

    def told(self) -> str:
        """For the terminal."""
        rates = [
            f"{threads} thread{'s'[: int(threads) > 1]} {rate / unit:.1f} {sign}"
            for name, (_, unit, sign) in KINDS.items()
            for threads, rate in self.peaks[name].items()
        ]
        return (
            f"{self.machine}; commit {self.commit}; {self.date} UTC; load {self.load:.1f}\nlimits: {', '.join(rates)}"
        )

    def share(self, row: Row) -> float | None:
        """Of its limit that a row reaches; None where it has none."""
        if row.limit is None:
            return None
        peak = row.limit.peak
        if peak is None:
            rates = self.peaks[row.limit.kind]
            peak = rates.get(str(row.limit.threads), max(rates.values()))
        return row.limit.amount / row.seconds / peak


def write(file: Path, about: About, rows: Sequence[Row], past: Mapping[Key, Earlier], failures: Sequence[str]) -> None:
    """Write the page of what was measured so far."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    axis = plots.Axis.over(ratio for _, ratio in _ratios(rows))
    names = dict.fromkeys(row.chapter for row in rows)
    chapters = [_chapter(name, [row for row in rows if row.chapter == name], about, axis, past) for name in names]
    dots = [(name, _ratios([row for row in rows if row.chapter == name])) for name in names]
    bars = [
        (row.name, share, INKS[row.limit.kind]) for row in rows if row.limit and (share := about.share(row)) is not None
    ]
    html = environment.get_template("page.html.j2").render(
        about=about, chapters=chapters, failures=failures, axis=plots.axis_plot(axis),
        glance=plots.glance(axis, [one for one in dots if one[1]]), shares=plots.shares(bars),
        worse=[_course(key, verdict) for key, verdict in history.worse(rows, past).items()],
        limits=[(what, threads, f"{rate / unit:.1f} {sign}")
                for name, (what, unit, sign) in KINDS.items() for threads, rate in about.peaks[name].items()],
        wall=sum(wall for wall, _ in about.minutes.values()), cpu=sum(cpu for _, cpu in about.minutes.values()),
        better=sum(ratio >= 1 for _, ratios in dots for _, ratio in ratios), ratios=sum(len(ratios) for _, ratios in dots),
        runs=max((len(runs) for peers in past.values() for runs in peers.values()), default=0),
    )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(html)


def _ratios(rows: Sequence[Row]) -> list[tuple[str, float]]:
    return [(f"{row.name}, {peer.name}", peer.ratio) for row in rows for peer in row.peers if peer.ratio]


def _chapter(
    name: str, rows: Sequence[Row], about: About, axis: plots.Axis, past: Mapping[Key, Earlier]
) -> dict[str, Any]:
    words = (
        (ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or "").splitlines()[0].split(" `python")[0]
    )
    wall, cpu = about.minutes[name]
    return {
        "name": name,
        "words": words,
        "rows": [_row(row, about, axis, past) for row in rows],
        "wall": wall,
        "cpu": cpu,
    }


def _row(row: Row, about: About, axis: plots.Axis, past: Mapping[Key, Earlier]) -> dict[str, Any]:
    earlier = past.get((row.chapter, row.name), {})
    verdict, share = history.judge(row, earlier), about.share(row)
    worse = verdict is not None and verdict.worse
    peers = []
    for peer in row.peers:
        median = statistics.median(earlier[peer.name].values()) if earlier.get(peer.name) else None
        peers.append({
            "name": peer.name, "value": number(peer.value),
            "ratio": f"{number(peer.ratio)}×" if peer.ratio else "equal" if peer.value == row.ours else "–",
            "interval": " to ".join(dict.fromkeys(map(number, peer.ratios[1:]))) if peer.low != peer.high else "",
            "plot": plots.ratio_plot(axis, peer, median, worse), "better": peer.ratio is None or peer.ratio >= 1,
            "change": verdict.peers.get(peer.name) if verdict else None,
        })  # fmt: skip
    limit = row.no_limit
    if row.limit is not None:
        what, unit, sign = KINDS.get(row.limit.kind, ("ideal", 1, "a second"))
        limit = f"of the {what}: {number(row.limit.amount / row.seconds / unit)} {sign}; {row.limit.words}"
    return {"name": row.name, "ours": number(row.ours), "unit": row.unit, "peers": peers, "verdict": verdict,
            "share": "" if share is None else plots.percent(share), "limit": limit}  # fmt: skip


def _course(key: Key, verdict: Verdict) -> tuple[str, str]:
    """A worse row in words, and its change from run to run."""
    points = [(run, change, math.nan, math.nan) for run, change in verdict.runs.items()]
    points.append(("this run", verdict.change, verdict.low, verdict.high))
    words = told_worse(key, verdict)
    return words, charts.course(points, lambda change: f"{100 * change:.0f} %", "worse", words)


def told_worse(key: Key, verdict: Verdict) -> str:
    peers = ", ".join(f"{name} {100 * change - 100:+.0f} %" for name, change in verdict.peers.items())
    return (
        f"{key[0]}: {key[1]}: {100 - 100 * verdict.change:.0f} % below the median of {len(verdict.runs)} runs "
        f"(more than {100 * verdict.band:.0f} % is told); beside {peers}"
    )


def number(value: float) -> str:
    """Three digits or so, without an exponent."""
    if abs(value) < 0.1:
        return f"{value:.2g}"
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f}".replace(",", "\u202f")

"""Run several ways to do one thing in turn, so that a busy machine slows all alike, and print a table of their times."""

import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.rows import Limit, record


@dataclass
class Times:
    """Seconds of one way, a number a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of this process's threads and of the children that ended


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int, budget_s: float = 60) -> dict[str, Times]:
    """Every way once a round, after one call that does not count; fewer rounds (at least two) where the budget is spent."""
    for way in ways.values():
        way()
    times = {name: Times() for name in ways}
    ends = time.perf_counter() + budget_s
    for turn in range(rounds):
        if turn >= 2 and time.perf_counter() > ends:
            break
        for name, way in ways.items():
            started, worked = time.perf_counter(), _cpu()
            way()
            times[name].wall.append(time.perf_counter() - started)
            times[name].cpu.append(_cpu() - worked)
    return times


def compare(
    title: str,
    ways: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    budget_s: float = 60,
    notes: Mapping[str, str] | None = None,
    each: int = 1,
    row: str = "",
    limit: Limit | str = "",
) -> dict[str, Times]:
    """Take turns and print the table in ms; ratios are to the first way, above 1 where that one is faster.

    Args:
        notes: a few words for a way's last column.
        each: images (or rows, or requests) of one call; the times are of one of them.
        row: name of the book's row, if it is one, which holds processor times; `limit` is of one call.
    """
    times = take_turns(ways, rounds, budget_s)
    if row:
        ours, *peers = (found.cpu for found in times.values())
        record(
            row, "ms cpu", [1e3 * s / each for s in ours],
            {name: [1e3 * s / each for s in found] for name, found in zip(list(times)[1:], peers, strict=True)
             if not name.startswith("maskmill")},
            limit, seconds=statistics.median(ours),
        )  # fmt: skip
    first = next(iter(times.values()))
    rows = []
    for name, found in times.items():
        median, least, cpu = statistics.median(found.wall), min(found.wall), min(found.cpu)
        ratios = median / statistics.median(first.wall), least / min(first.wall), cpu / max(min(first.cpu), 1e-9)
        rows.append(
            [name, *(f"{1e3 * s / each:.2f}" for s in (median, least, cpu)), *(f"{ratio:.2f}" for ratio in ratios)]
            + ([notes.get(name, "")] if notes else [])
        )
    header = ["way", "median ms", "least ms", "cpu ms", "ratio, median", "least", "cpu", *(["note"] if notes else [])]
    show(f"{title}; {len(first.wall)} rounds", header, rows)
    return times


def show(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A title and a Markdown table, its columns aligned."""
    table = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    table.insert(1, ["-" * width for width in widths])
    print(f"\n{title}\n")
    for row in table:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)


def _cpu() -> float:
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

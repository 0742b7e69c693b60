"""The scorecard of faults, bad inputs and security: which test covers which row, and its result.

`python -m tests.scorecard` (or `make scorecard`) runs exactly the tests that carry `@pytest.mark.scorecard(group, row)`, prints
one line a row, and exits with 1 if a row fails or has no test. A row that cannot be run here is printed with the reason.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.bad_inputs import CASES

ROWS: dict[str, dict[int, str]] = {
    "fault": dict(
        enumerate(
            (
                "worker killed with -9", "actor killed with -9", "raylet killed with -9", "head killed with -9",
                "driver killed with -9", "an image that kills its worker", "worker out of memory", "a frozen node",
                "store answers 503", "store answers 500", "store resets connections", "store hangs",
                "store truncates a body", "store does the PUT but loses the reply", "store killed and restarted",
                "credentials expire in mid-run", "disk full on output", "disk full on spill",
                "a kill between every two steps of the commit", "two drivers on one run",
                "kill while a checkpoint is saved", "newest checkpoint truncated", "NaN or Inf scores",
                "a source object changed after the plan was made",
            ),
            start=1,
        )
    )
    | {
        25: "output on a store without exclusive create is refused",
        26: "_SUCCESS.json and run.json edited, each number",
        28: "the checkpoint replaced in mid-run",
        29: "a part of another run put into the run",
        30: "an error of the code on one image, inside an actor",
        31: "SIGTERM to the driver",
        32: "compiled code cached from other sources",
        33: "package folder and home are read-only",
    },
    "input": {number: case.name for number, case in CASES.items()}
    | {
        52: "size: a mask over Pillow's bomb limit is read back",
        53: "crf: energies beyond 1e4",
        54: "crf: widths near 0",
        55: "run: a garbage run.json",
        56: "run: a run.json of another format",
    },
    "security": dict(
        enumerate(
            (
                "tokenless remote cluster refused by submit", "Ray pinned and token mode documented",
                "safetensors only; .pth by an explicit import with weights_only",
                "Pillow >= 13 with an explicit format list",
                "archives never extracted, bytes counted while read", "overlapping zips refused",
                "no secret forwarded in runtime_env",
                "a canary key never shows in logs, Parquet footers, report or errors",
                "manifest URIs held to allowed schemes and roots", "yaml.safe_load; unknown keys refused",
                "file names inert in the report", "dependencies locked with hashes",
            ),
            start=1,
        )
    )
    | {
        13: "embedded Ray listens on loopback alone",
        16: "passwords and signatures in URLs reach no row and no report",
    },
}  # fmt: skip
TITLES = {"fault": "faults", "input": "inputs", "security": "security"}


@dataclass
class Row:
    """What became of one row's tests."""

    name: str
    tests: int = 0
    seeds: int = 0  # random ones; 0: nothing is left to chance
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        if self.faults:
            return f"FAILED {self.faults[0]}"
        if not self.tests:
            return "MISSING: no test carries its mark"
        return f"not run: {self.skipped[0]}" if self.skipped else "passed"

    @property
    def green(self) -> bool:
        return bool(self.tests) and not self.faults and not self.skipped

    @property
    def broken(self) -> bool:
        return bool(self.faults) or not self.tests


class Scorecard:
    """A pytest plugin: keeps the tests of the scorecard and no others, and gathers what becomes of them."""

    def __init__(self) -> None:
        self.rows = {(group, number): Row(name) for group, rows in ROWS.items() for number, name in rows.items()}
        self._tests: dict[str, list[Row]] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        others = [item for item in items if not list(rows_of(item))]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
        for item in items:
            self._tests[item.nodeid] = [self.rows[key] for key in rows_of(item)]
            for row in self._tests[item.nodeid]:
                row.tests += 1
                row.seeds = max(row.seeds, seeds_of(item))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for row in self._tests.get(report.nodeid, []):
            row.seconds += report.duration
            if report.failed:
                row.faults.append(report.nodeid)
            if report.skipped:
                reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
                row.skipped.append(reason.removeprefix("Skipped: "))

    def text(self) -> str:
        """One line a row, and a line for each of the three groups."""
        lines = ["", f"{'row':12} {'name':70} {'seeds':>5} {'seconds':>8}  outcome"]
        for (group, number), row in self.rows.items():
            lines.append(f"{group:8} {number:3} {row.name:70} {row.seeds or '-':>5} {row.seconds:8.1f}  {row.outcome}")
        for group, title in TITLES.items():
            rows = [row for (found, _), row in self.rows.items() if found == group]
            lines.append(f"{title} {sum(row.green for row in rows)}/{len(rows)}")
        return "\n".join(lines)


def rows_of(item: pytest.Item) -> Iterator[tuple[str, int]]:
    """Rows that a test answers."""
    for mark in item.iter_markers("scorecard"):
        group, *numbers = mark.args
        yield from ((group, number) for number in numbers)


def seeds_of(item: pytest.Item) -> int:
    """Seeds of a test: all those of its run (`seeds`), or how many cases its parameter makes."""
    if "seeds" in getattr(item, "fixturenames", ()):
        return item.config.getoption("--chaos-seeds")
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return int(parameters["seed"]) + 1 if "seed" in parameters else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-k", default="", help="as pytest's: only some of the rows, the others are then missing")
    parser.add_argument("--without-long", action="store_true", help="leave out tests marked long; each row has others")
    options = parser.parse_args()
    card = Scorecard()
    arguments = [
        "-q",
        "-m",
        "not long" if options.without_long else "",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        f"--chaos-seeds={options.seeds}",
    ]
    code = pytest.main([*arguments, *(["-k", options.k] if options.k else [])], plugins=[card])
    print(card.text())
    return 1 if code not in (0, pytest.ExitCode.NO_TESTS_COLLECTED) or any(r.broken for r in card.rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The book: every measurement beside its peers and the machine's limits, as tables and as one HTML page.

python -m tests.bench [CHAPTER ...] [--record]    sized for under 15 minutes on 2 quiet cores

Chapters run in a short form here; the long form of each is python -m tests.bench.CHAPTER. If one breaks or exceeds its time,
the others go on, and it is named at the end. Ratios are compared with those of earlier runs on the same kind of machine; if a
row looks worse, its chapter is measured again, and rows that are worse both times are reported.
Exit codes: 0, 1 (a chapter broke), 3 (a row is worse than it was).
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import history, machine, page
from tests.bench.rows import FILE, Row, read_rows

# Chapter -> (arguments of its short form, minutes after which it is given up: twice what it takes on 2 quiet cores, or so).
BOOK: dict[str, tuple[list[str], float]] = {
    "counts": (["15"], 0.7),
    "decode": (["10"], 0.5),
    "masks": (["10"], 0.7),
    "regions": (["5", "0"], 1),
    "crf": (["512x1024x19", "--repeats", "4", "--drawn", "--exact"], 2),
    "engines": (["--divide", "2", "--images", "6", "--engines", "openvino", "--networks", "lraspp-mobilenetv3",
                 "deeplabv3plus-efficientnet_lite0"], 2.5),
    "windows": (["2", "ResNet-18", "AlexNet"], 1.5),
    "readers": (["3"], 1),
    "loader": ([], 0.8),
    "queries": (["300000", "75", "3"], 2),
    "extend": (["100000"], 1),
    "scaling": (["plan", "verify", "evaluate", "--short"], 1.5),
    "memory": (["--images", "40", "200"], 1.5),
    "nodes": (["4", "32"], 3),
    "faults": (["--faults", "driver killed", "--sides", "maskmill segment", "Ray Data, checkpoints"], 4),
    "run": (["--chunks", "2", "--images", "24", "--peers", "5", "--sides", "maskmill, fastest engine", "bare loop",
             "torchvision loop", "plain Ray Data"], 6),
    "gpu": (["--networks", "3"], 4),
}  # fmt: skip
ON_A_DEVICE = {"gpu"}
PAGE = machine.ROOT / "runs" / "bench" / "book.html"
BROKE, WORSE = 1, 3


def play(chapter: str, slack: float) -> tuple[list[Row], str]:
    """Rows of a chapter, and how it failed, if it did."""
    arguments, budget = BOOK[chapter]
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        # A session of its own, so that what a chapter started (a store, Ray) can be ended with it.
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.bench.{chapter}", *arguments], start_new_session=True,
            env=os.environ | {FILE: file.name},
        )  # fmt: skip
        failure = ""
        try:
            if code := process.wait(60 * budget * slack):
                failure = f"{chapter}: exit code {code}"
        except subprocess.TimeoutExpired:
            failure = f"{chapter}: not done in its {budget * slack:g} minutes"
        finally:  # also where the book itself is interrupted
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return read_rows(Path(file.name), chapter), failure


def worse_again(first: list[Row], again: list[Row], past: dict[history.Key, history.Earlier]) -> list[Row]:
    """The first measurement, but of a row that was worse in it alone the second: what is told was so both times."""
    once, twice = ({row for _, row in history.worse(rows, past)} for rows in (first, again))
    second = {row.name: row for row in again}
    return [second.get(row.name, row) if row.name in once - twice else row for row in first]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", choices=[*BOOK, []], help="all by default")
    parser.add_argument("--record", action="store_true", help="append the ratios to the history")
    parser.add_argument("--history", type=Path, default=history.FILE)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--slack", type=float, default=1, help="budgets by it, for a machine on which other work runs")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what a chapter started ends with this process
    began = time.monotonic()
    about = page.About.of_this_run(sys.argv[1:])
    past = history.by_row(history.read(args.history), about.machine)
    rows: list[Row] = []
    failures: list[str] = []
    print(about.told(), flush=True)
    for chapter in args.chapters or BOOK:
        if chapter in ON_A_DEVICE and about.device is None:
            print(f"\n## {chapter}: left out, there is no accelerator", flush=True)
            continue
        print(f"\n## {chapter}", flush=True)
        started, worked = time.monotonic(), _children_s()
        found, failure = play(chapter, args.slack)
        if history.worse(found, past):
            print(f"\n## {chapter} again: a row looks worse than it was", flush=True)
            again, failed_again = play(chapter, args.slack)
            found, failure = worse_again(found, again, past), failure or failed_again
        rows += found
        failures += [failure] if failure else []
        about.minutes[chapter] = (time.monotonic() - started) / 60, (_children_s() - worked) / 60
        page.write(args.page, about, rows, past, failures)
    told = [page.told_worse(key, verdict) for key, verdict in history.worse(rows, past).items()]
    if args.record:
        history.add(args.history, history.lines_of(rows, about.date, about.commit, about.machine))
    took = ", ".join(f"{chapter} {wall:.1f}" for chapter, (wall, _) in about.minutes.items())
    cpu = sum(cpu for _, cpu in about.minutes.values())
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes, {cpu:.1f} of processor time: {took}\n{args.page}")
    print("\n".join([*failures, *told]))
    return BROKE if failures else WORSE if told else 0


def _children_s() -> float:
    """Processor seconds of the chapters that ended, and of what they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())

"""End to end: images/s of `segment` over PNGs of 1024x2048 in zips on S3, beside loops that people would write.

python -m tests.bench.run [--chunks 2] [--images 104] [--peers 16] [--cores 2]    about 10 minutes on 2 quiet cores

The corpus comes in chunks, and each side answers a chunk in a process of its own before the next chunk begins, so that a busy
machine slows all sides alike. Rates are after start-up: from the first image's reading to the committed end. The bare loops
have the same reader, decoder, network and encoder and read the zip from the local disk: what they lack is Ray, the ledger and
the store.
`maskmill, fastest engine` is the same run with `engine: auto`, which is compared with the bare loops of torch and of the same
engine.
The peers (torchvision's network with the same weights, Pillow) answer the first `--peers` images of each chunk.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.bench.flops import operations
from tests.bench.rows import Limit, record
from tests.bench.run_peers import empty_network
from tests.bench.run_sides import HEIGHT, WIDTH, prepare
from tests.bench.store import s3_store
from tests.bench.turns import show

OURS = "maskmill segment"
FASTEST, BARE, SAME = "maskmill, fastest engine", "bare loop", "bare loop, fastest engine"
FASTEST_BARS = {BARE: 1.4, SAME: 0.95}  # what the rate of the fastest engine divided by theirs must reach
BARS = {  # side: what maskmill's rate divided by the side's must reach
    BARE: 0.90,
    "bare loop, threads": 0.90,
    "torchvision loop": 1.0,
    "plain Ray Data": 1.5,
}


def answer(side: str, chunk: dict[str, object]) -> tuple[float, float]:
    """(images/s after start-up, seconds of start-up) of one side over one chunk, in a process of its own."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tests.bench.run_sides", side, json.dumps(chunk)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side}: {done.stderr[-3000:]}")
    images, seconds = json.loads(done.stdout.splitlines()[-1])
    return images / seconds, time.monotonic() - started - seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=2)
    parser.add_argument("--images", type=int, default=104, help="of a chunk")
    parser.add_argument("--peers", type=int, default=16, help="of a chunk that the peers answer")
    parser.add_argument("--cores", type=int, default=2, help="all sides are held to")
    parser.add_argument(
        "--sides", nargs="*", default=[FASTEST, SAME, *BARS], choices=[FASTEST, SAME, *BARS], help="beside maskmill"
    )
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    with tempfile.TemporaryDirectory() as folder, s3_store(Path(folder)) as store:
        chunks = prepare(Path(folder), store, args.chunks, args.images, args.peers, args.cores)
        sides = [OURS, *args.sides]
        rates: dict[str, list[float]] = {side: [] for side in sides}
        starts: dict[str, list[float]] = {side: [] for side in sides}
        for number, chunk in enumerate(chunks):
            for side in sides if number % 2 == 0 else reversed(sides):
                rate, start = answer(side, chunk)
                rates[side].append(rate)
                starts[side].append(start)
                print(f"chunk {number}, {side}: {rate:.3f} images/s, start-up {start:.1f} s", flush=True)
    ours = rates[OURS]
    count = operations(empty_network(), torch.zeros(1, 3, HEIGHT, WIDTH))
    limit = Limit("flops", count, "products and sums of LRASPP alone, from torch's counter", args.cores)
    bars = {side: rates[side] for side in args.sides if side in BARS}
    pace = statistics.median(ours)
    record("segment on S3, a whole run", "images/s", ours, bars, limit, more_is_better=True, seconds=1 / pace)
    held = {side: bar for side, bar in FASTEST_BARS.items() if side in rates}
    if FASTEST in rates and held:
        pace, bars = statistics.median(rates[FASTEST]), {side: rates[side] for side in held}
        name = "segment on S3, engine: auto"
        record(name, "images/s", rates[FASTEST], bars, limit, more_is_better=True, seconds=1 / pace)
    rows = []
    for side, found in rates.items():
        ratios = [one / other for one, other in zip(ours, found, strict=True)]
        middle, bar = statistics.median(ratios), BARS.get(side)
        verdict = "" if bar is None else f"{bar:.2f}: {'met' if middle >= bar else 'missed'}"
        if side == FASTEST:
            gains = {one: statistics.median(a / b for a, b in zip(found, rates[one], strict=True)) for one in held}
            verdict = "; ".join(
                f"{gain:.2f} of the {one}, {held[one]}: {'met' if gain >= held[one] else 'missed'}"
                for one, gain in gains.items()
            )
        rows.append([side, f"{statistics.median(found):.3f}", f"{middle:.2f}", f"{min(ratios):.2f}-{max(ratios):.2f}",
                     verdict, f"{statistics.median(starts[side]):.1f}"])  # fmt: skip
    show(
        f"LRASPP-MobileNetV3, {args.chunks} x {args.images} PNGs of 1024x2048, {args.cores} cores",
        ["side", "images/s", "maskmill's rate / its", "over the chunks", "bar", "start-up s"],
        rows,
    )


if __name__ == "__main__":
    main()

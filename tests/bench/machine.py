"""Describe this machine and measure its peak memory and compute rates. `python -m tests.bench.machine [--json]`: five seconds.

The limits of the book's rows: a copy as in STREAM (bytes read and bytes written), over more than the caches hold, and a
product of float32 matrices, each on one thread and on all cores at once.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

COPY_BYTES, PIECE_BYTES, PASSES = 1 << 28, 8 << 20, 6  # the copy's source; each piece is timed
MATRIX, ROUNDS = 1024, 30
PACKAGES = (
    "maskmill",
    "numpy",
    "torch",
    "torchvision",
    "numba",
    "pyarrow",
    "ray",
    "pillow",
    "torchcodec",
    "duckdb",
    "polars",
)
ROOT = Path(__file__).parent.parent.parent


def cores() -> int:
    return len(os.sched_getaffinity(0))


def kind() -> str:
    """Vendor, family, model and name of the processor, and the cores at hand: machines alike share a history."""
    found = dict[str, str]()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    if "model name" not in found:  # ARM
        found["model name"] = f"{os.uname().machine} part {found.get('CPU part', '?')}"
    ids = "-".join(found[name] for name in ("cpu family", "model") if name in found)
    return " ".join([found["model name"], *([f"({ids})"] if ids else []), f"{cores()} cores"])


def commit() -> str:
    """Short hash of what was measured, with a plus where files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "pipeline", "tests/bench")
        return git("rev-parse", "--short=9", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "no repository"


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def copy_rate(threads: int) -> float:
    """Bytes a second, read and written."""
    pieces = COPY_BYTES // PIECE_BYTES // threads

    def copy() -> float:
        source, target = (np.full((pieces, PIECE_BYTES // 8), value) for value in (1.0, 0.0))
        return 2 * PIECE_BYTES / _seconds(lambda k: np.copyto(target[k % pieces], source[k % pieces]), PASSES * pieces)

    return _at_once(copy, threads)


def product_rate(threads: int) -> float:
    """float32 operations a second, two for a multiplication and an addition."""
    import torch

    def multiply() -> float:
        torch.set_num_threads(1)  # holds for the thread that says it
        a, b = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
        out = torch.empty(MATRIX, MATRIX)
        return 2 * MATRIX**3 / _seconds(lambda _: torch.mm(a, b, out=out), ROUNDS)

    return _at_once(multiply, threads)


def _at_once(rate: Callable[[], float], threads: int) -> float:
    """The sum over threads that work side by side, each with memory of its own."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda _: rate(), range(threads)))


def _seconds(work: Callable[[int], object], rounds: int) -> float:
    """Lower quartile of the processor time of this thread, which other programs lengthen least."""
    seconds = []
    for k in range(rounds):
        started = time.thread_time()
        work(k)
        seconds.append(time.thread_time() - started)
    return float(np.quantile(seconds, 0.25))


def peaks() -> dict[str, Any]:
    """Rates by kind of limit and number of threads, and the name of the accelerator, if there is one."""
    import torch

    rates: dict[str, dict[str, float]] = {"bytes": {}, "flops": {}}
    for name, rate in (("bytes", copy_rate), ("flops", product_rate)):
        for threads in sorted({1, cores()}):
            rates[name][str(threads)] = rate(threads)
    return {
        **rates,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


if __name__ == "__main__":
    found = peaks()
    if "--json" in sys.argv:
        print(json.dumps(found))
    else:
        print(kind())
        for name, unit in (("bytes", "GB/s copied, read and written"), ("flops", "GFLOP/s in a float32 product")):
            for threads, rate in found[name].items():
                print(f"{threads} threads: {rate / 1e9:.1f} {unit}")

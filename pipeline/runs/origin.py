"""Commit of the code and machine on which a run was begun: recorded for the reader, without effect on its output."""

import contextlib
import os
import platform
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path


@cache
def commit() -> str | None:
    """Return the commit of the running code, with `+changes` if files differ from it; None outside a repository."""
    folder = Path(__file__).parent
    try:
        if not _git(folder, "ls-files", "--", __file__):  # installed inside another project's repository
            return None
        made = _git(folder, "rev-parse", "HEAD")
        return made + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def machine() -> str:
    """Describe cores, processor, memory and GPUs of this machine in a few words, without its name or address."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = [f"{cores} cores of {_processor()}" if cores > 1 else f"one core of {_processor()}"]
    with contextlib.suppress(ValueError, OSError):
        words.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB")
    gpus = Counter(_gpus())
    words += [f"{number} x {name}" if number > 1 else name for name, number in gpus.items()] or ["no GPU"]
    return ", ".join(words)


def _processor() -> str:
    """Return the processor's name as Linux reports it; elsewhere its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return " ".join(next(line.partition(":")[2] for line in lines if line.startswith("model name")).split())
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Return names of NVIDIA GPUs from their driver's files: asking CUDA would take some of the GPUs' memory."""
    try:
        texts = [file.read_text() for file in Path("/proc/driver/nvidia/gpus").glob("*/information")]
    except OSError:
        return []
    lines = [line for text in texts for line in text.splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()

"""Processes that compute on the CPU: how many cores they take, and what they do with freed memory."""

import ctypes
import os

import pyarrow as pa
import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc, malloc.h
_TUNED = ("MALLOC_MMAP", "MALLOC_TRIM", "GLIBC_TUNABLES")


def take_cores(cores: int) -> None:
    """Give this process so many threads for torch and for Arrow, and let it keep the memory that it frees.

    A network's activations are tens of megabytes each. As it comes, glibc asks the system for each of them and gives it back
    a moment later, so that every layer begins with page faults: 0.9 million in one pass of DeepLabv3+ over 1024x2048 pixels,
    half of the processor's time (configs/LOG.md, freed memory). Kept, they are reused; the process stays as large as it was
    at its largest. Nothing changes where the C library is not glibc, or is told otherwise by its own environment.
    """
    torch.set_num_threads(cores)
    pa.set_cpu_count(cores)
    if any(name.startswith(_TUNED) for name in os.environ):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)

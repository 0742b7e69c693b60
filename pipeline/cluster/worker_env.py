"""Processes that compute on the CPU: how many cores they take, and that they keep the memory they free.

A network's activations are tens of megabytes each. As it comes, glibc asks the system for each of them and gives it back a
moment later, so that every layer begins with page faults: 0.9 million in one pass of DeepLabv3+ over 1024x2048 pixels, half of
the processor's time (configs/LOG.md, freed memory). Kept, they are used again, and the process stays as large as it was at its
largest. With another C library nothing changes.
"""

import ctypes
import os

# glibc's own words for it, mallopt(3): no mapping for a single tensor, nothing given back, and one heap for all threads, since
# those of other threads are too small for a tensor. At a process's start, for workers: Ray's compute beside the first thread.
_KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_ARENA_MAX": "1"}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def worker_environment(gpus: float) -> dict[str, dict[str, str]]:
    """Ray's `runtime_env` for workers that compute; one that is on a GPU needs none."""
    return {} if gpus > 0 else {"env_vars": {name: os.environ.get(name, value) for name, value in _KEEP.items()}}


def take_cores(cores: int) -> None:
    """Give this process so many threads for torch and for Arrow, and let its first thread keep what it frees.

    A process whose environment speaks to glibc's malloc already is left as it is.
    """
    import pyarrow as pa
    import torch  # here, so that the environment of workers can be asked for without it

    torch.set_num_threads(cores)
    pa.set_cpu_count(cores)
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)

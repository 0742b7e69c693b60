"""Set up processes that compute on the CPU: their number of cores, and reuse of the memory that they free.

A network's activations take tens of megabytes each. By default, glibc requests each of them from the system and returns it a
moment later, so that every layer begins with page faults: 0.9 million in one pass of DeepLabv3+ over 1024x2048 pixels, half of
the processor's time (configs/LOG.md, freed memory). Memory that is kept is used again, but the process stays as large as its
peak. Other C libraries are not affected.
"""

import ctypes
import os

# Settings of glibc's malloc, see mallopt(3): no mmap for single tensors, no memory returned to the system, and one heap for all
# threads, since the heaps of other threads are too small for a tensor. Workers need them in their environment, since Ray's
# tasks do not run on a worker's first thread.
_KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_ARENA_MAX": "1"}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def worker_environment(gpus: float) -> dict[str, dict[str, str]]:
    """Return Ray's `runtime_env` for workers that compute on the CPU; workers with a GPU need none."""
    return {} if gpus > 0 else {"env_vars": {name: os.environ.get(name, value) for name, value in _KEEP.items()}}


def take_cores(cores: int) -> None:
    """Set this process's number of threads for torch and Arrow, and let its first thread keep the memory that it frees.

    The malloc settings are left alone if the environment already configures glibc's malloc.
    """
    import pyarrow as pa
    import torch  # imported here, since `worker_environment` does not need it

    torch.set_num_threads(cores)
    pa.set_cpu_count(cores)
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)

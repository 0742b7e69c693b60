"""Whether Triton can launch kernels here: at its first use it compiles a module in C, so it needs a C compiler.

The module, of CPython's headers and the driver's library, stays in Triton's cache (TRITON_CACHE_DIR, by default `~/.triton`): a
compiler is needed once. The kernels themselves are compiled by what comes with Triton.
"""

import logging
import subprocess
from functools import cache

_log = logging.getLogger(__name__)


@cache
def triton_works() -> bool:
    """Whether kernels can be launched on the CUDA device of this process; where not, one warning says why."""
    try:
        from triton.runtime import driver

        loaded = driver.active.utils  # compiled here, or found in the cache
    # Without Triton; without a compiler; CC names none; it finds no headers; the driver's library is not found.
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError, AssertionError) as error:
        _log.warning(
            "Triton cannot be used (%s): the dense CRF and enlargement on the GPU run by torch's operations, which need more "
            "time and memory; Triton needs a C compiler at first use: install gcc, or name one in CC",
            (str(error) or type(error).__name__).splitlines()[0],
        )
        return False
    return loaded is not None

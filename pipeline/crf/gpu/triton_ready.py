"""Check whether Triton can launch kernels on this machine: at its first use it compiles a C module, with a C compiler.

The module needs CPython's headers and the driver's library. It stays in Triton's cache (TRITON_CACHE_DIR, by default
`~/.triton`), so the C compiler is needed only once. For the kernels themselves Triton includes a compiler.
"""

import logging
import subprocess
from functools import cache

_log = logging.getLogger(__name__)


@cache
def triton_works() -> bool:
    """Return whether kernels can be launched on the CUDA device of this process; if not, log one warning that says why."""
    try:
        from triton.runtime import driver

        loaded = driver.active.utils  # compiled here, or found in the cache
    # No Triton; no compiler; CC names none; no headers; no library of the driver.
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError, AssertionError) as error:
        _log.warning(
            "Triton cannot be used (%s): the dense CRF and enlargement on the GPU run by torch's operations, which need more "
            "time and memory; Triton needs a C compiler at first use: install gcc, or name one in CC",
            (str(error) or type(error).__name__).splitlines()[0],
        )
        return False
    return loaded is not None

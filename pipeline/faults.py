"""What ends a segmentation run from the side of its cluster, in a sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import ray.exceptions


@contextmanager
def explained(output: str) -> Iterator[None]:
    """Turn what Ray raises while a run is answered into the ValueError that says what to do; others pass.

    Args:
        output: URI of the run.
    """
    try:
        yield
    except (ray.exceptions.RayError, OSError) as error:
        raise ValueError(_sentence(output, error)) from error


def _sentence(output: str, error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        remote = isinstance(cause, ray.exceptions.RayError)  # of both types, its words are a traceback
        if isinstance(cause, ValueError) and not remote:
            return str(cause)
        if isinstance(cause, OSError) and not remote:
            if cause.errno in (errno.ENOSPC, errno.EDQUOT):
                return f"run {output}: a disk is full ({cause}); free space and run the same command again"
            return f"run {output}: {cause}; run the same command again, which does only what is missing"
        # A remote exception holds the one that was raised there beside its own type.
        cause = getattr(cause, "cause", None) or cause.__cause__
    words = (str(error).strip().splitlines() or [""])[0]
    return (
        f"run {output}: lost the cluster or the machines that worked on it ({type(error).__name__}: {words}); "
        "run the same command again, which does only what is missing"
    )

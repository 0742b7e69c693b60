"""What ends a segmentation run from the side of its cluster, in a sentence."""

import contextlib
import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import ray
import ray.exceptions

from pipeline.errors import UserError

# Ray's own key: a driver whose head is away for so long is ended by Ray, without an exception.
RECONNECT_S = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def explained(output: str) -> Iterator[None]:
    """Turn what Ray, store or disk raise while a run is answered into the UserError that says what to do; others pass.

    Where the head of the cluster is lost nothing is raised: the sentence is printed while there is time.

    Args:
        output: URI of the run.
    """
    over = threading.Event()
    threading.Thread(target=_watch_head, args=(output, over), name="head watch", daemon=True).start()
    try:
        yield
    except (ray.exceptions.RayError, OSError) as error:
        raise UserError(_sentence(output, error)) from error
    finally:
        over.set()


def _watch_head(output: str, over: threading.Event) -> None:
    """Say so once when the head has not been reached for half of what Ray waits."""
    heard = time.monotonic()
    while not over.wait(RECONNECT_S / 20):
        if not ray.is_initialized():
            heard = time.monotonic()
            continue
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), RECONNECT_S / 20):
            heard = time.monotonic()
        if time.monotonic() - heard > RECONNECT_S / 2:
            print(
                f"error: run {output}: the head of the cluster ({host}:{port}) does not answer, and this command ends unless "
                "it comes back; run the same command again on a cluster that is up, which does only what is missing",
                file=sys.stderr,
                flush=True,
            )
            return


def _sentence(output: str, error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        remote = isinstance(cause, ray.exceptions.RayError)  # of both types, its words are a traceback
        if isinstance(cause, ValueError) and not remote:
            return str(cause)
        if isinstance(cause, OSError) and not remote:
            if cause.errno in _FULL:
                return f"run {output}: a disk is full ({cause}); free space and run the same command again"
            if isinstance(cause, PermissionError):
                return f"run {output}: access is refused ({cause}); see that its credentials may read the corpus and write it"
            return f"run {output}: {cause}; run the same command again, which does only what is missing"
        # A remote exception holds the one that was raised there beside its own type.
        cause = getattr(cause, "cause", None) or cause.__cause__
    words = (str(error).strip().splitlines() or [""])[-1]  # of a remote traceback the last line is the error
    if any(os.strerror(number) in str(error) for number in _FULL):
        return f"run {output}: a disk is full ({words}); free space and run the same command again"
    return (
        f"run {output}: lost the cluster or the machines that worked on it ({type(error).__name__}: {words}); "
        "run the same command again, which does only what is missing"
    )

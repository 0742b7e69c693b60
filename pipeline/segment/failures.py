"""Errors that end a segmentation run, in an actor or in the cluster: a message for the user, or a bug with its traceback."""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

from pipeline.errors import UserError
from pipeline.storage.retry import FULL

# Ray's own setting: after so many seconds without the cluster's head, Ray ends the driver without an exception.
RECONNECT_S = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ActorError(Exception):
    """A bug in an actor; its traceback is attached as a note."""


@contextlib.contextmanager
def explained(output: str) -> Iterator[None]:
    """Turn errors of Ray, store or disk into a UserError that says what to do, or an ActorError; other errors pass.

    If the head of the cluster is lost, Ray raises nothing: the message is printed before Ray ends the process.

    Args:
        output: URI of the run.
    """
    over = threading.Event()
    threading.Thread(target=_watch_head, args=(output, over), name="head watch", daemon=True).start()
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError) or _is_of_ray(error, "RayError")):
            raise
        if (words := sentence(output, error)) is not None:
            raise UserError(words) from error
        met = _root(error)
        bug = ActorError(_last_line(str(error)) if met is None else f"run {output}: {type(met).__name__}: {met}")
        bug.add_note(_COLOURS.sub("", str(error)))
        raise bug from None
    finally:
        over.set()


def encode(output: str, error: Exception, where: str) -> str:
    """Return the error that ended an actor as text for its driver, to be read by `raise_encoded`.

    Args:
        where: what the actor was working on, such as its shard.
    """
    if (words := sentence(output, error)) is not None:
        return json.dumps({"sentence": words})
    met = [f"run {output}, {where}", *getattr(error, "__notes__", ())]
    words = f"{': '.join(met)}: {type(error).__name__}: {error}"
    return json.dumps({"bug": words, "trace": "".join(traceback.format_exception(error))})


def raise_encoded(failure: str | None) -> None:
    """Raise the error that ended an actor; do nothing for None.

    Raises:
        UserError: the user can fix it.
        ActorError: a bug.
    """
    if failure is None:
        return
    decoded = json.loads(failure)
    if "sentence" in decoded:
        raise UserError(decoded["sentence"])
    bug = ActorError(decoded["bug"])
    bug.add_note(f"in the actor:\n{decoded['trace']}")
    raise bug


def _watch_head(output: str, over: threading.Event) -> None:
    """Print a message once the head has not been reached for half of `RECONNECT_S`."""
    heard = time.monotonic()
    while not over.wait(RECONNECT_S / 20):
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
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


def sentence(output: str, error: BaseException) -> str | None:
    """Return what ended a run and what to do about it; None for a bug."""
    cause = _root(error)
    if isinstance(cause, UserError):
        return str(cause)
    if isinstance(cause, OSError):
        if cause.errno in FULL:
            return f"run {output}: a disk is full ({cause}); free space and run the same command again"
        if isinstance(cause, PermissionError):
            return f"run {output}: access is refused ({cause}); check that its credentials may read the corpus and write it"
        return f"run {output}: {cause}; run the same command again, which does only what is missing"
    words = _last_line(str(error))  # the last line of a remote traceback is the error
    if any(os.strerror(number) in str(error) for number in FULL):
        return f"run {output}: a disk is full ({words}); free space and run the same command again"
    if cause is not None or _is_of_ray(error, "RayTaskError"):
        return None
    return (
        f"run {output}: lost the cluster or the machines that worked on it ({type(error).__name__}: {words}); "
        "run the same command again, which does only what is missing"
    )


def _is_of_ray(error: BaseException, name: str) -> bool:
    """Return whether an error is of this type of `ray.exceptions`, without importing Ray."""
    exceptions = sys.modules.get("ray.exceptions")
    return exceptions is not None and isinstance(error, getattr(exceptions, name))


def _root(error: BaseException) -> BaseException | None:
    """Return the error inside Ray's wrappers, which may be subclasses of its type; None if Ray wraps no other error."""
    cause: BaseException | None = error
    while cause is not None and type(cause).__module__.startswith("ray."):
        # Ray's exception for a remote error keeps the original in `cause`.
        cause = getattr(cause, "cause", None) or cause.__cause__
    return cause


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]

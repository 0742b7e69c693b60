"""What ends a segmentation run, in an actor or in its cluster: a sentence, or a bug with its traceback."""

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

# Ray's own key: a driver whose head is away for so long is ended by Ray, without an exception.
RECONNECT_S = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ActorError(Exception):
    """A bug that an actor met; its traceback is a note."""


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
    """What ended an actor, as text for its driver, which `raise_encoded` understands.

    Args:
        where: what the actor was at, such as its shard.
    """
    if (words := sentence(output, error)) is not None:
        return json.dumps({"sentence": words})
    met = [f"run {output}, {where}", *getattr(error, "__notes__", ())]
    words = f"{': '.join(met)}: {type(error).__name__}: {error}"
    return json.dumps({"bug": words, "trace": "".join(traceback.format_exception(error))})


def raise_encoded(failure: str | None) -> None:
    """Raise what ended an actor; nothing where nothing did.

    Raises:
        UserError: whoever runs the command can mend it.
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
    """Say so once when the head has not been reached for half of what Ray waits."""
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
    """What ended a run and what to do about it; None for a bug."""
    cause = _root(error)
    if isinstance(cause, UserError):
        return str(cause)
    if isinstance(cause, OSError):
        if cause.errno in FULL:
            return f"run {output}: a disk is full ({cause}); free space and run the same command again"
        if isinstance(cause, PermissionError):
            return f"run {output}: access is refused ({cause}); check that its credentials may read the corpus and write it"
        return f"run {output}: {cause}; run the same command again, which does only what is missing"
    words = _last_line(str(error))  # of a remote traceback the last line is the error
    if any(os.strerror(number) in str(error) for number in FULL):
        return f"run {output}: a disk is full ({words}); free space and run the same command again"
    if cause is not None or _is_of_ray(error, "RayTaskError"):
        return None
    return (
        f"run {output}: lost the cluster or the machines that worked on it ({type(error).__name__}: {words}); "
        "run the same command again, which does only what is missing"
    )


def _is_of_ray(error: BaseException, name: str) -> bool:
    """Whether it is of this type of `ray.exceptions`; runs that do without Ray do not import it."""
    exceptions = sys.modules.get("ray.exceptions")
    return exceptions is not None and isinstance(error, getattr(exceptions, name))


def _root(error: BaseException) -> BaseException | None:
    """The error itself below Ray's wrappings of it, which may be of both types; None where Ray has no other than its own."""
    cause: BaseException | None = error
    while cause is not None and type(cause).__module__.startswith("ray."):
        # A remote exception holds the one that was raised there beside its own type.
        cause = getattr(cause, "cause", None) or cause.__cause__
    return cause


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]

"""Make Ctrl-C and SIGTERM work in every phase, even where a library replaces Python's signal handler or swallows the
exception.

A thread reads the signals from a wakeup pipe, whatever handler is installed. As long as the command keeps running,
KeyboardInterrupt is raised again every `REPEAT_S`. SIGTERM, which Kubernetes and job servers send, ends a command as Ctrl-C
does.

Two things are not interrupted: an import, where torch's C++ would abort the process with its own stack trace, and logging's
taking and releasing its lock around a fork, where the lock would stay locked. KeyboardInterrupt is held back until they end,
for at most `HOLD_S`, or until a second Ctrl-C. Where Python itself prints an exception and drops it, as in `__del__`,
KeyboardInterrupt is raised again at once instead.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from pipeline.errors import Stopped

REPEAT_S = 2.0
HOLD_S = 10.0
_TICK_S = 0.25  # interval at which the listening thread checks
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_heard: int | None = None  # the first signal; no Event, since a handler that takes a lock may interrupt its holder
_handled = False  # whether `_stop` has seen a signal
_held_until = 0.0  # until when KeyboardInterrupt is held back, on time.monotonic's clock; 0 = it is not
_listening = False
_ended = threading.Event()


def listen() -> None:
    """Start to listen for signals; called once, by the main thread, before anything that takes time."""
    global _listening
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_hear, args=(reader, threading.get_ident()), name="interrupts", daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _stop)
    signal.signal(signal.SIGALRM, _again)
    sys.unraisablehook = functools.partial(_dropped, sys.unraisablehook)
    _listening = True


def pressed() -> bool:
    """Whether Ctrl-C was pressed, or SIGTERM sent, since `listen`."""
    return _heard is not None


def exit_code() -> int:
    """Return the exit code of an interrupted command: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_heard or signal.SIGINT)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Reinstall our handlers after a block in which a library may replace them; does nothing in programs without `listen`."""
    try:
        yield
    finally:
        if _listening and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, _stop)


def end() -> None:
    """Mark the command as finished: from now on a signal ends the process at once, even during shutdown."""
    _ended.set()
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(128 + number))


@contextlib.contextmanager
def keeping(words: str) -> Iterator[None]:
    """Raise `Stopped`, which says what is kept and how to continue, if Ctrl-C or SIGTERM ends the block.

    Raises:
        Stopped: with these words, in place of whatever exception the signal led to.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or pressed():
            raise Stopped(words) from error
        raise


def _stop(number: int, frame: FrameType | None) -> None:
    global _heard, _handled, _held_until
    again, _handled = _handled, True  # not `_heard`: the listening thread may have set it already
    _heard = _heard or number
    if again and number == signal.SIGTERM:  # a second SIGTERM must not interrupt the shutdown
        return
    if not again and _not_now(frame):
        _held_until = time.monotonic() + HOLD_S
        return
    raise KeyboardInterrupt


def _hear(reader: int, main: int) -> None:
    global _heard
    while not (found := [number for number in os.read(reader, 64) if number in SIGNALS]):
        pass
    _heard = _heard or found[0]
    told, raised_at = False, time.monotonic()
    while not _ended.wait(_TICK_S):
        if (waited := time.monotonic() - raised_at >= REPEAT_S) and not told:
            print(
                "stopping: running work is being shut down; nothing that was written is lost",
                file=sys.stderr,
                flush=True,
            )
            told = True
        if waited or _held_until:
            signal.pthread_kill(main, signal.SIGALRM)
        if waited:
            raised_at = time.monotonic()


def _again(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt unless an earlier one is still propagating, since cleanup must not be interrupted."""
    global _held_until
    if _not_now(frame) and time.monotonic() < _held_until:
        return
    _held_until = 0.0
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, SystemExit, Stopped)):
            return
        error = error.__context__
    if not _ended.is_set():
        raise KeyboardInterrupt


def _dropped(otherwise: Callable[[Any], Any], dropped: Any) -> None:
    """Raise KeyboardInterrupt once more, by the listening thread's next tick, where Python drops it (`sys.unraisablehook`)."""
    global _held_until
    if isinstance(dropped.exc_value, KeyboardInterrupt) and not _ended.is_set():
        _held_until = time.monotonic()
    else:
        otherwise(dropped)


def _not_now(frame: FrameType | None) -> bool:
    """Whether this frame or one of its callers is importing a module, or taking or releasing logging's lock."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib") or code.co_name in ("_acquireLock", "_releaseLock"):
            return True
        frame = frame.f_back
    return False

"""Ctrl-C and SIGTERM are heard in every phase: also where a library has put its own handler in place of Python's, or swallows
the exception.

The kernel's signal is read from a pipe beside whatever handler is installed. While the command goes on as if nothing had
happened, KeyboardInterrupt is raised again every `REPEAT_S`. SIGTERM, which Kubernetes and job servers send, ends a command as
Ctrl-C does.

Two things are not broken off: an import, where torch's C++ would end the process with a stack of its own, and the release of
logging's lock after a fork, where Python prints an exception and drops it. The exception waits for their end, at most `HOLD_S`,
or for a second Ctrl-C.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from pipeline.errors import Stopped

REPEAT_S = 2.0
HOLD_S = 10.0
_TICK_S = 0.25  # how often it is looked whether an import is over
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_heard: int | None = None  # no Event: a handler that takes a lock may find itself holding it
_handled = False  # by `_stop`
_held_until = 0.0  # while the exception waits; on time.monotonic's clock
_listening = False
_ended = threading.Event()


def listen() -> None:
    """Begin to hear; called once, by the main thread, before anything that takes time."""
    global _listening
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_hear, args=(reader, threading.get_ident()), name="interrupts", daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _stop)
    signal.signal(signal.SIGALRM, _again)
    _listening = True


def pressed() -> bool:
    """Whether Ctrl-C was pressed, or SIGTERM sent, since `listen`."""
    return _heard is not None


def exit_code() -> int:
    """Of a command that was ended so: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_heard or signal.SIGINT)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put our handlers back where a library replaces them, in Python or below it; nothing for programs that do not `listen`."""
    try:
        yield
    finally:
        if _listening and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, _stop)


def end() -> None:
    """The command is over: from now on a signal ends the process at once, whatever still closes down."""
    _ended.set()
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(128 + number))


@contextlib.contextmanager
def keeping(words: str) -> Iterator[None]:
    """What to say of work that Ctrl-C or SIGTERM ends: what is kept, and how to go on.

    Raises:
        Stopped: with these words, in place of whatever the key led to.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or pressed():
            raise Stopped(words) from error
        raise


def _stop(number: int, frame: FrameType | None) -> None:
    global _heard, _handled, _held_until
    again, _handled = _handled, True  # the thread that hears may be faster than this
    _heard = _heard or number
    if again and number == signal.SIGTERM:  # who sends it twice does not want what closes down to be broken off
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
            print("stopping: what runs is closed down; nothing that is written is lost", file=sys.stderr, flush=True)
            told = True
        if waited or _held_until:
            signal.pthread_kill(main, signal.SIGALRM)
        if waited:
            raised_at = time.monotonic()


def _again(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt unless an earlier one is on its way out: what closes down is not to be broken off."""
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


def _not_now(frame: FrameType | None) -> bool:
    """Whether this frame, or one that called it, imports a module or gives back logging's lock."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code.co_name == "_releaseLock":
            return True
        frame = frame.f_back
    return False

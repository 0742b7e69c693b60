"""Ctrl-C is heard in every phase: also where a library has put its own handler in place of Python's, or swallows the exception.

The kernel's signal is read from a pipe beside whatever handler is installed. While the command goes on as if nothing had
happened, KeyboardInterrupt is raised again every `REPEAT_S`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from pipeline.errors import Stopped

REPEAT_S = 2.0

_pressed = False  # no Event: a handler that takes a lock may find itself holding it
_ended = threading.Event()


def listen() -> None:
    """Begin to hear; called once, by the main thread, before anything that takes time."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_hear, args=(reader, threading.get_ident()), name="interrupts", daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _key)
    signal.signal(signal.SIGALRM, _again)


def pressed() -> bool:
    """Whether Ctrl-C was pressed since `listen`."""
    return _pressed


def end() -> None:
    """The command is over: from now on Ctrl-C ends the process at once, whatever still closes down."""
    _ended.set()
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))


@contextlib.contextmanager
def keeping(words: str) -> Iterator[None]:
    """What to say of work that Ctrl-C ends: what is kept, and how to go on.

    Raises:
        Stopped: with these words, in place of whatever the key led to.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or pressed():
            raise Stopped(words) from error
        raise


def _key(number: int, frame: FrameType | None) -> None:
    global _pressed
    _pressed = True
    raise KeyboardInterrupt


def _hear(reader: int, main: int) -> None:
    global _pressed
    while signal.SIGINT not in os.read(reader, 64):
        pass
    _pressed = True
    while not _ended.wait(REPEAT_S):
        signal.pthread_kill(main, signal.SIGALRM)


def _again(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt unless an earlier one is on its way out: what closes down is not to be broken off."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, SystemExit, Stopped)):
            return
        error = error.__context__
    if not _ended.is_set():
        raise KeyboardInterrupt

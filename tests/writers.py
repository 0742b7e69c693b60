"""Writers of a run that take turns: each works in a thread of its own and pauses before every step on the store, until it is
told to go on, to die there, or to do the step twice, like a client that lost the reply."""

import threading
from collections.abc import Callable

import pytest

from pipeline import storage
from tests.crash_points import Killed

_CHANGES = ("put", "create", "delete")
_STEPS = (*_CHANGES, "scan", "exists")


class Writer(threading.Thread):
    """One process that runs a command; `step` lets it do one step."""

    def __init__(self, name: str, command: Callable[[], object]) -> None:
        super().__init__(name=name, daemon=True)
        self.command, self.outcome = command, None
        self.did = ""  # the last step, e.g. `create masks/part-00001.parquet`
        self.found = False  # whether there was an object where it last created one
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._dies = self._repeats = False
        self._looked_at_lease = False
        self.start()

    def step(self, repeats: bool = False) -> None:
        """Let it work until it stands before its next step, or has ended."""
        self._repeats = repeats
        self._go.release()
        assert self._stopped.acquire(timeout=60)

    def kill(self) -> None:
        self._dies = True
        while self.outcome is None:
            self.step()
        self.join()

    def run(self) -> None:
        self._go.acquire()
        try:
            self._die_if_told()
            self.outcome = ("done", self.command())
        except Killed:
            self.outcome = ("killed", None)
        except BaseException as error:
            self.outcome = ("refused" if isinstance(error, ValueError) else "failed", error)
        finally:
            self._stopped.release()

    def before(self, step: str, uri: str) -> int:
        """Stand before a step; how often it is to be done.

        A look at the lease and the step that follows it are one: pipeline/runs/ledger.py says what may happen in between.
        """
        guarded, self._looked_at_lease = self._looked_at_lease, step == "scan" and uri.endswith("/_lease")
        if not guarded or step not in ("put", "delete"):
            self._stopped.release()
            self._go.acquire()
        self._die_if_told()
        return 2 if self._repeats and step in _CHANGES else 1

    def _die_if_told(self) -> None:
        if self._dies:
            raise Killed


def take_turns(patch: pytest.MonkeyPatch) -> None:
    """Make the writers' steps on the store wait for their turn; other threads go on as ever."""
    exists = storage.exists
    for name in _STEPS:
        patch.setattr(storage, name, _in_turn(name, getattr(storage, name), exists))


def _in_turn(step: str, real: Callable, exists: Callable[[str], bool]) -> Callable:
    def call(uri, *rest):
        writer = threading.current_thread()
        if not isinstance(writer, Writer):
            return real(uri, *rest)
        times = writer.before(step, uri)
        if step == "create":
            writer.found = exists(uri)
        for _ in range(times):
            answer = real(uri, *rest)
        writer.did = f"{step} {'/'.join(uri.split('/')[-2:])}"
        return iter(list(answer)) if step == "scan" else answer

    return call

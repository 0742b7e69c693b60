"""Allow one writer per run, by a lease that is created exclusively, renewed while the writer lives, and expires if it dies.

Leases are numbered: `<run>/_lease/00000007.json` is the seventh, and the highest number is the valid one. A dead lease is
taken over by creating the next number, which only one writer can do. No writer overwrites the lease of another, so a writer
that was frozen and wakes up finds a higher number than its own and stops. The highest number is never removed.

A lease is dead if it was given back, if its process is gone and ran on this machine, or `EXPIRES_S` + `SKEW_S` after its last
renewal; machines' clocks may differ by `SKEW_S`. If they differ more, there can be two writers at once: work is then done
twice, but nothing is damaged, since the first answer of a shard counts (pipeline/runs/ledger.py).
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import storage
from pipeline.errors import RunBusy, StoreRefused, UserError

EXPIRES_S = 60.0
RENEW_S = 15.0
SKEW_S = 30.0
# Tokens of leases that this process has given back, even if that could not be stored, for example on a full disk.
_ended: set[str] = set()
_FAILURES = (OSError, StoreRefused)  # of the store; credentials may be renewed before the lease has expired


class _Holder(BaseModel):
    """Content of a lease file."""

    model_config = ConfigDict(frozen=True)

    token: str
    host: str
    machine: str
    pid: int = Field(ge=1, lt=2**31)
    expires: float = Field(allow_inf_nan=False)  # seconds since 1970


class Lease:
    """`with Lease(run_uri) as lease:` holds the run; meanwhile other writers are refused.

    Raises:
        RunBusy: on entering, if another writer holds the run.
        UserError: on entering, if the newest lease is damaged, or the store cannot create files exclusively.
    """

    def __init__(self, run_uri: str) -> None:
        self._run_uri, self._number = run_uri, 0
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        storage.require_exclusive_create(self._run_uri, "a run")
        while True:
            numbers = _numbers(self._run_uri)
            newest = max(numbers, default=0)
            holder = _read(self._run_uri, newest)
            if newest and holder is None:
                continue  # a newer lease replaced it between the two calls
            if holder is not None and _alive(holder):
                raise RunBusy(
                    f"run {self._run_uri}: {_name(holder)} is writing it; wait for it to end, or stop it: its lease ends "
                    f"{EXPIRES_S + SKEW_S:.0f} s after its last sign of life"
                )
            self._number = newest + 1
            if not storage.create(_uri(self._run_uri, self._number), self._content(time.time() + EXPIRES_S)):
                continue  # another writer was first
            if not self.lost():
                break
            storage.delete(_uri(self._run_uri, self._number))  # the listing was outdated, so this number is too low
        for number in numbers:
            storage.delete(_uri(self._run_uri, number))
        self._renewal.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._renewal.join()
        _ended.add(self._token)
        with contextlib.suppress(*_FAILURES):  # the lease will expire
            if not self.lost():
                storage.put(_uri(self._run_uri, self._number), self._content(expires=0.0))

    def lost(self) -> bool:
        """Return whether another writer has taken over the run."""
        return max(_numbers(self._run_uri), default=0) > self._number

    def check(self) -> None:
        """Raise RunBusy if another writer has taken over the run; call this before steps that cannot be repeated."""
        if self.lost():
            raise RunBusy(
                f"run {self._run_uri}: this writer was silent for more than {EXPIRES_S:.0f} s and "
                f"{self.holder(self._run_uri) or 'another'} has taken it over; this one stops"
            )

    @staticmethod
    def holder(run_uri: str) -> str | None:
        """Return the host and process that write a run now; None if none does."""
        holder = _read(run_uri, max(_numbers(run_uri), default=0))
        return _name(holder) if holder and _alive(holder) else None

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            with contextlib.suppress(*_FAILURES):  # the next renewal may reach the store again
                if self.lost():
                    return
                storage.put(_uri(self._run_uri, self._number), self._content(time.time() + EXPIRES_S))

    def _content(self, expires: float) -> bytes:
        holder = _Holder(
            token=self._token, host=socket.gethostname(), machine=_machine(), pid=os.getpid(), expires=expires
        )
        return holder.model_dump_json().encode()


def _numbers(run_uri: str) -> list[int]:
    return [
        int(file.path.removesuffix(".json"))
        for file in storage.scan(storage.join(run_uri, "_lease"))
        if file.path.removesuffix(".json").isdigit()
    ]


def lease_faults(run_uri: str) -> list[str]:
    """Return a message for each lease file that cannot be read."""
    faults = []
    for number in sorted(_numbers(run_uri)):
        try:
            _read(run_uri, number)
        except UserError as error:
            faults.append(str(error))
    return faults


def _read(run_uri: str, number: int) -> _Holder | None:
    """Read a lease; None if it is gone; UserError if it is damaged, since nobody can then tell whether it is valid."""
    try:
        data = storage.read(_uri(run_uri, number))
    except FileNotFoundError:
        return None
    try:
        return _Holder.model_validate_json(data)
    except ValidationError:
        raise UserError(
            f"run {run_uri}: the lease _lease/{number:08d}.json is {'damaged' if data else 'empty'}, so that its writer is not "
            "known; if nobody writes the run, delete the file and run the same command again"
        ) from None


def _uri(run_uri: str, number: int) -> str:
    return storage.join(run_uri, "_lease", f"{number:08d}.json")


def _name(holder: _Holder) -> str:
    return f"{holder.host} (process {holder.pid})"


def _machine() -> str:
    """Identify the scope in which process ids are unique: containers may share a host name, but have their own ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        return socket.gethostname()


def _alive(holder: _Holder) -> bool:
    if holder.expires + SKEW_S < time.time() or holder.token in _ended:
        return False
    if holder.machine != _machine():
        return True
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

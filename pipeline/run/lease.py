"""One writer a run: a lease that is created exclusively, renewed while the writer lives, and expires if it dies."""

import json
import os
import socket
import threading
import time
import uuid
from types import TracebackType

from pipeline import storage

EXPIRES_S = 60.0
RENEW_S = 15.0


class Lease:
    """`with Lease(run_uri):` holds `<run>/_lease.json`; a second writer is refused while it is fresh.

    A lease is taken over when it has expired, or at once when its process is gone from this same machine.

    Raises:
        ValueError: on entering, another writer holds the run.
    """

    def __init__(self, run_uri: str) -> None:
        self.uri = storage.join(run_uri, "_lease.json")
        self._run_uri = run_uri
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        while not storage.create(self.uri, self._content()):
            try:
                holder = json.loads(storage.read(self.uri))
            except FileNotFoundError:
                continue  # given back between the two calls
            if _alive(holder):
                raise ValueError(
                    f"run {self._run_uri}: {holder['host']} (process {holder['pid']}) is writing it; wait for it to end, or "
                    f"stop it: its lease ends {EXPIRES_S:.0f} s after its last sign of life"
                )
            storage.delete(self.uri)
        self._renewal.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._renewal.join()
        storage.delete(self.uri)

    @staticmethod
    def holder(run_uri: str) -> str | None:
        """Who writes a run now, in words; None if nobody does."""
        try:
            found = json.loads(storage.read(storage.join(run_uri, "_lease.json")))
        except FileNotFoundError:
            return None
        return f"{found['host']} (process {found['pid']})" if _alive(found) else None

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            storage.put(self.uri, self._content())

    def _content(self) -> bytes:
        holder = {
            "token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "expires": time.time() + EXPIRES_S
        }  # fmt: skip
        return json.dumps(holder).encode()


def _alive(holder: dict[str, object]) -> bool:
    if float(str(holder["expires"])) < time.time():
        return False
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(str(holder["pid"])), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

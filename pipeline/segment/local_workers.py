"""Answer shards in processes of this machine, without Ray, whose start would take most of the time of a small run.

Each process is a `Segmenter`, like a Ray actor, and its death is handled alike: its shard is given to a new process, which
learns from `Run.begin` that the shard was begun before. The processes end with the driver.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from multiprocessing.connection import Pipe, wait
from typing import TYPE_CHECKING, Any, Self

from pipeline.cluster.phases import PHASES
from pipeline.cluster.worker_env import worker_environment
from pipeline.errors import UserError
from pipeline.segment.shard_progress import Count

if TYPE_CHECKING:
    from pipeline.config import SegmentConfig

# In larger runs, the start of Ray takes a small part of the time, and its scheduler, metrics and log files are worth it.
MOST_IMAGES = 256
DEATHS = 5  # processes that may die over one shard; already the second would have found a deadly image
_ENDS_WITHIN_S = 10.0  # seconds to wait for a process to exit after it has closed its pipe
# Program of a process. Unlike `multiprocessing`, it does not import the caller's script again.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from pipeline.segment.local_worker import main; main({handle})"


class LocalWorkers:
    """The processes of one command; they are ended when the context is left."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}  # arguments that bind the processes to a run, from `bound_to`
        self._workers: list[_Worker] = []
        self._counts: dict[str, Count] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start_one(self, cfg: "SegmentConfig | None" = None) -> None:
        """Start a process, which imports its libraries while the driver does other work.

        Args:
            cfg: config of the run that is about to begin; if given, the process loads its weights too.
        """
        self._workers.append(_Worker(None if cfg is None else cfg.model_dump(mode="json")))

    def close(self) -> None:
        """End all processes at once, even if they are working."""
        while self._workers:
            self._workers.pop().end()

    def summaries(self, pending: list[int]) -> Iterator[dict[str, Any]]:
        """Yield the summary of each pending shard once it is committed."""
        waiting, died = deque(pending), Counter[int]()
        most = min(self.bound["payload"]["actors"], len(pending))
        PHASES.info("starting %d process%s, each loads the weights", most, "" if most == 1 else "es")
        while waiting or any(worker.shard is not None for worker in self._workers):
            while len(self._workers) < min(most, len(waiting) + sum(one.shard is not None for one in self._workers)):
                self.start_one()
            for worker in self._workers:
                if worker.shard is None and waiting:
                    worker.give(waiting.popleft(), self.bound)
            for worker in _that_speak(self._workers):
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, OSError):
                    self._workers.remove(worker)
                    self._counts.pop(worker.name, None)
                    how = worker.told()
                    if worker.shard is not None:
                        died[worker.shard] += 1
                        self._refuse(worker.shard, died[worker.shard], how)
                        waiting.appendleft(worker.shard)
                    continue
                if kind == "count":
                    self._counts[worker.name] = value
                else:
                    worker.shard = None
                    yield value

    def counts(self) -> dict[str, Count]:
        """Return the progress of each process."""
        return dict(self._counts)

    def forget(self) -> None:
        """Do nothing: counts of an earlier command do not outlive it."""

    def waits_for(self) -> str:
        """Return an empty text: `summaries` has already said that processes are starting."""
        return ""

    def _refuse(self, shard: int, deaths: int, how: str) -> None:
        """Raise UserError after `DEATHS` deaths over one shard: a deadly image alone would have been found before."""
        if deaths >= DEATHS:
            raise UserError(
                f"run {self.bound['payload']['output']}: {deaths} processes died one after another over shard {shard} ({how}); "
                "see that this machine has memory for the network and an image, or lower actors or batch_size, then run the "
                "same command again, which does only what is missing"
            )


class _Worker:
    """One process and the driver's end of its pipe."""

    def __init__(self, payload: dict[str, Any] | None) -> None:
        self.shard: int | None = None
        self._told = False  # whether it knows which run it works on
        self.connection, theirs = Pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # its output; open as long as the process
        environment = worker_environment(0).get("env_vars", {})
        with theirs:
            program = _PROGRAM.format(path=sys.path, handle=theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches only the driver, which ends the process
            )
        self.name = str(self._process.pid)
        self._send(payload)

    def give(self, shard: int, bound: dict[str, Any]) -> None:
        """Let the process answer a shard."""
        self.shard = shard
        if not self._told:
            self._send(bound)
            self._told = True
        self._send(shard)

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # the process has died, as reading from it will show
            self.connection.send(message)

    def end(self) -> None:
        """End the process at once, even if it is working, with the children in which it isolates crashes."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._said.close()

    def told(self) -> str:
        """Return how a process died that has closed its pipe: its exit code and the last line of its output."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN_S)
        code = self._process.poll()
        self._said.seek(0)
        last = (self._said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        self.end()
        return f"exit code {code}: {last}"


def _that_speak(workers: list[_Worker]) -> list[_Worker]:
    ready = wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in ready]


def started_ahead(cfg: "SegmentConfig | None" = None) -> LocalWorkers:
    """Return the processes for a run that is about to begin; the first is started if the run may do without Ray.

    Args:
        cfg: config of the run; None if it is not known yet.
    """
    workers = LocalWorkers()
    if _alone() if cfg is None else _may_fit(cfg):
        workers.start_one(cfg)
    return workers


def fits(cfg: "SegmentConfig", images: int) -> bool:
    """Return whether a run with so many images to answer does without Ray: a small one, on the CPUs of this machine."""
    return _may_fit(cfg) and images <= MOST_IMAGES


def _may_fit(cfg: "SegmentConfig") -> bool:
    """Return the same as `fits` for a run whose number of images is not known yet."""
    fits_here = cfg.actors * cfg.cpus_per_actor <= (os.cpu_count() or 1)
    return _alone() and cfg.decode == "actor" and cfg.gpus_per_actor == 0 and fits_here


def _alone() -> bool:
    """Return whether nobody asked for Ray: it does not run in this process, and no address of a cluster is given."""
    started = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    return sys.platform != "win32" and not started and not os.environ.get("RAY_ADDRESS")  # Windows passes no pipe on

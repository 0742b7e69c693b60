"""Processes that outlive the command that started them, and are ended without touching any other."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STOP_S = 15.0  # between asking processes to end and ending them


@dataclass(frozen=True)
class Process:
    """One process with a session of its own, so that everything it starts can be told from the rest of the machine."""

    name: str
    pid: int  # also the id of its process group and of its session
    born: str  # tells it from a later process with the same pid


def start(name: str, command: list[str], environment: dict[str, str], log_file: Path) -> Process:
    """Start a command that outlives this process; what it prints goes to the file."""
    with log_file.open("wb") as log:
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    return Process(name, started.pid, _born(started.pid))


def members(process: Process) -> list[int]:
    """Pids of a process and of what it started; none if it is gone, whatever has its pid now."""
    found = []
    for pid in _pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == process.pid:
                found.append(pid)
    # A pid is not given away while it names a session, so only a leader of other birth means another session.
    return [] if process.pid in found and _born(process.pid) != process.born else found


def end(order: list[Process]) -> int:
    """Ask, wait, insist, for everything that these started; how many processes were there."""
    there = [pid for process in order for pid in members(process)]
    for process in order:
        if members(process):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while any(alive(process) for process in order) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in order:
        while left := running(process):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    return len(there)


def running(process: Process) -> list[int]:
    """Members that still run; our own dead children are waited for on the way."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return [pid for pid in members(process) if not _zombie(pid)]


def alive(process: Process) -> bool:
    return process.pid in running(process)


def _pids() -> Iterator[int]:
    if Path("/proc/self/stat").exists():
        yield from (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    else:
        yield from map(int, subprocess.check_output(["ps", "-Ao", "pid="], text=True).split())


def _born(pid: int) -> str:
    """When a process began, in the system's own words; empty for one that is gone."""
    if Path("/proc/self/stat").exists():
        return (_stat(pid) or [""] * 20)[19]
    return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()


def _zombie(pid: int) -> bool:
    """Dead, and not yet waited for by its parent."""
    if Path("/proc/self/stat").exists():
        return (_stat(pid) or ["Z"])[0] == "Z"
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return not state.strip() or state.startswith("Z")


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the state on: 0 is the state, 19 the start."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None

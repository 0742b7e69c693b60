"""A driver as a process of its own that segments one config after the other, so that a test can kill it at any moment.

Run as `python -m tests.chaos.driver`: reads one JSON config a line, answers one JSON object a line.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


class Driver:
    """The process, seen from a test."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.driver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, env=os.environ | environment, cwd=ROOT, start_new_session=True, text=True,
        )  # fmt: skip
        self._answer: dict[str, object] | None = None
        self._reader: threading.Thread | None = None

    def wait_ready(self) -> "Driver":
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline()) == {"ready": True}
        return self

    def begin(self, config: dict[str, object]) -> None:
        """Begin a run; `end` waits for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(config) + "\n")
        self.process.stdin.flush()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self, timeout_s: float = 400) -> dict[str, object]:
        """The run's answer: `{"rows": ..., ...}`, `{"error": sentence}`; `{"died": exit code}` for a dead driver."""
        assert self._reader is not None
        self._reader.join(timeout_s)
        assert not self.busy(), f"the run did not end within {timeout_s} s"
        assert self._answer is not None
        return self._answer

    def run(self, config: dict[str, object]) -> dict[str, object]:
        self.begin(config)
        return self.end()

    def busy(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._reader is not None:
            self._reader.join(60)
        self._log.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self._answer = json.loads(line) if line else {"died": self.process.wait()}


def _fill(size_bytes: int, held: list[object]) -> dict[str, object]:
    """Put objects of a size into Ray's object store until it takes no more."""
    import numpy
    import ray

    try:
        while True:
            held.append(ray.put(numpy.zeros(size_bytes, numpy.uint8)))
    except ray.exceptions.RayError as error:
        return {"objects": len(held), "refused": f"{type(error).__name__}: {error}"}


def main() -> None:
    from dataclasses import asdict

    from pipeline.cluster import connection
    from pipeline.config import SegmentConfig, parse
    from pipeline.segment.driver import segment

    out = os.fdopen(os.dup(1), "w", buffering=1)  # what libraries print goes to the log
    os.dup2(2, 1)
    connection.connect()
    print(json.dumps({"ready": True}), file=out)
    held: list[object] = []
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if "fill_bytes" in command:
                answer = _fill(command["fill_bytes"], held)
            else:
                answer = asdict(segment(parse(SegmentConfig, command, where="chaos")))
        except ValueError as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"unexplained": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out)


if __name__ == "__main__":
    main()

"""Run a command in a terminal of its own, as a user would: read what it shows, and press keys."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

CTRL_C = b"\x03"


class Terminal:
    """`with Terminal(command) as terminal:` runs it behind a pseudo-terminal and in its foreground, in a session of its own."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments]
        self._environment, self.seen = os.environ | {"COLUMNS": "200"} | (environment or {}), b""

    def __enter__(self) -> "Terminal":
        self._master, slave = pty.openpty()
        enter = "import fcntl, termios, os; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        command = [sys.executable, "-c", enter + "import sys; os.execv(sys.argv[1], sys.argv[1:])", *self._command]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=self._environment, start_new_session=True
        )
        os.close(slave)
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        return self.seen.decode(errors="replace")

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def read_for(self, seconds: float) -> None:
        """Take in what is shown."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._master], [], [], min(left, 0.1))[0]:
                try:
                    self.seen += os.read(self._master, 65536)
                except OSError:  # Linux' answer when nobody holds the other end
                    return

    def await_text(self, words: str, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while words not in self.text:
            assert self.process.poll() is None and time.monotonic() < end, self.text[-3000:]
            self.read_for(0.05)

    def await_listening(self, seconds: float = 60) -> None:
        """Until the command is past the start of Python itself, and hears keys."""
        end = time.monotonic() + seconds
        while not self._catches(signal.SIGALRM):
            assert self.process.poll() is None and time.monotonic() < end, self.text[-3000:]
            time.sleep(0.005)

    def ended(self, seconds: float) -> int:
        """The exit code, within so many seconds."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running: {self.text[-3000:]}"
            self.read_for(0.05)
        self.read_for(0.2)
        return self.process.returncode

    def _catches(self, number: int) -> bool:
        with open(f"/proc/{self.process.pid}/status") as file:
            mask = next(line for line in file if line.startswith("SigCgt"))
        return bool(int(mask.split()[1], 16) >> (number - 1) & 1)

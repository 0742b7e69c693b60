"""Control headless Chromium through its DevTools protocol over two pipes; needs no port, driver or package."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
TIMEOUT_S = 120.0
KEYS = {"Tab": 9, "ArrowRight": 39}  # name -> Windows' virtual code, which the protocol asks for


class Browser:
    """One page. Everything it complained of is in `complaints`, every address it asked for in `requests`."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._buffer = write, read, b""
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self._send("Target.createTarget", {"url": "about:blank"}, session=None)["targetId"]
        attached = self._send("Target.attachToTarget", {"targetId": target, "flatten": True}, session=None)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def open(self, url: str, width: int = 1440, dark: bool = False, scripts: bool = True) -> None:
        """Show a page and wait until it is loaded."""
        self.complaints, self.requests = [], []
        self._send(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._send("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        self._send("Page.navigate", {"url": url})
        deadline = time.monotonic() + TIMEOUT_S
        while self.ask("document.readyState") != "complete":
            assert time.monotonic() < deadline, f"{url} does not load"
            time.sleep(0.05)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for."""
        values = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self._send("Runtime.evaluate", values)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """One key, down and up, as a person's."""
        for kind in ("keyDown", "keyUp"):
            values = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            self._send("Input.dispatchKeyEvent", values)

    def _send(self, method: str, params: dict[str, Any] | None = None, session: str | None = "") -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)
        raise AssertionError("Chromium closed its pipe")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" in self._buffer:
                text, self._buffer = self._buffer.split(b"\0", 1)
                yield json.loads(text)
            data = os.read(self._read, 1 << 20)
            if not data:
                return
            self._buffer += data

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.complaints.append(str(params))
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Network.requestWillBeSent" if not params["request"]["url"].startswith("data:"):
                self.requests.append(params["request"]["url"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A Chromium of its own, ended with all its processes."""
    # It reads commands from file 3 and answers on file 4: a shell puts the pipes there.
    commands, answers = os.pipe(), os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    redirect = f'exec "$0" "$@" 3<&{commands[0]} 4>&{answers[1]} 2>/dev/null'
    process = subprocess.Popen(
        ["bash", "-c", redirect, CHROMIUM, *flags], pass_fds=(commands[0], answers[1]), start_new_session=True
    )
    for end in (commands[0], answers[1]):
        os.close(end)
    try:
        yield Browser(commands[1], answers[0])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for end in (commands[1], answers[0]):
            os.close(end)

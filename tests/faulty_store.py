"""A proxy in front of a real S3 server that misbehaves like networks and stores do, and records requests.

Requests are passed on byte for byte, including the Host header, so the clients' signatures stay valid.
"""

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import aiohttp
import yarl
from aiohttp import web

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    key: str  # <bucket>/<path>, or the bucket where it is a listing
    port: int  # of the client: tells which process asks
    first: bool  # nobody asked for this method and key before, since the fault began


Fault = Callable[["FaultyStore", Asked, web.Request], "asyncio.Future[web.StreamResponse] | object"]


class FaultyStore:
    """`with FaultyStore(upstream) as store:` serves at `store.url` until the end of the block.

    Args:
        upstream: URL of the real server.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.asked: list[Asked] = []
        self.struck: list[Asked] = []  # requests that a fault was laid on
        self.url = ""
        self._fault: tuple[Callable[[Asked], bool], Fault] | None = None
        self._seen: set[tuple[str, str]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty store", daemon=True)

    def __enter__(self) -> "FaultyStore":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @contextmanager
    def fault(self, fault: Fault, where: Callable[[Asked], bool]) -> Iterator[list[Asked]]:
        """Lay a fault on the requests that `where` picks, inside the block; gives the list of those it was laid on."""
        self.struck, self._seen = [], set()
        self._fault = where, fault
        try:
            yield self.struck
        finally:
            self._fault = None

    def count(self, method: str, pattern: str, since: int = 0) -> dict[str, int]:
        """key -> how often it was asked for, of the keys that a regex finds; `since` is a length of `asked` before."""
        found: dict[str, int] = {}
        for one in self.asked[since:]:
            if one.method == method and re.search(pattern, one.key):
                found[one.key] = found.get(one.key, 0) + 1
        return found

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0, force_close=True)
        )
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _end(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        key = unquote(request.raw_path.split("?")[0]).strip("/")
        peer = request.transport.get_extra_info("peername") if request.transport else ("", 0)
        asked = Asked(request.method, key, peer[1], (request.method, key) not in self._seen)
        self._seen.add((request.method, key))
        self.asked.append(asked)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._fault is not None and self._fault[0](asked):
            self.struck.append(asked)
            return await self._fault[1](self, asked, request)
        return await passed(self, asked, request)


async def passed(store: FaultyStore, asked: Asked, request: web.BaseRequest) -> web.StreamResponse:
    """What the real server answers; a broken connection while it is not there."""
    status, headers, body = await _ask(store, request)
    return web.Response(status=status, headers=headers, body=body)


def answers(status: int, code: str) -> Fault:
    """An S3 error in place of the answer; the real server is not asked."""

    async def fault(store: FaultyStore, asked: Asked, request: web.BaseRequest) -> web.StreamResponse:
        await request.content.read()
        text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
        body = b"" if request.method == "HEAD" else text.encode()
        return web.Response(status=status, body=body, content_type="application/xml")

    return fault


async def resets(store: FaultyStore, asked: Asked, request: web.BaseRequest) -> web.StreamResponse:
    """The connection breaks before anything is done."""
    return _break(request)


async def loses_the_reply(store: FaultyStore, asked: Asked, request: web.BaseRequest) -> web.StreamResponse:
    """The request is carried out, and the connection breaks before its answer."""
    await _ask(store, request)
    return _break(request)


def hangs(seconds: float) -> Fault:
    """Silence, longer than a client waits."""

    async def fault(store: FaultyStore, asked: Asked, request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return _break(request)

    return fault


def truncates(share: float, honest: bool) -> Fault:
    """The body ends too early: its header says so (`honest`: a middlebox cut it), or the connection just ends."""

    async def fault(store: FaultyStore, asked: Asked, request: web.BaseRequest) -> web.StreamResponse:
        status, headers, body = await _ask(store, request)
        part = body[: int(len(body) * share)]
        response = web.StreamResponse(status=status, headers=headers | {"Content-Length": str(len(body))})
        if honest:
            response.headers["Content-Length"] = str(len(part))
        await response.prepare(request)
        await response.write(part)
        return response if honest else _break(request)

    return fault


def kills(kill: Callable[[int], None]) -> Fault:
    """Whoever asks dies of the answer: `kill` is given the client's port."""

    async def fault(store: FaultyStore, asked: Asked, request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.get_running_loop().run_in_executor(None, kill, asked.port)
        return _break(request)

    return fault


def before(act: Callable[[Asked], None]) -> Fault:
    """Something happens once, just before the first request is passed on."""
    lock, done = asyncio.Lock(), []

    async def fault(store: FaultyStore, asked: Asked, request: web.BaseRequest) -> web.StreamResponse:
        async with lock:
            if not done:
                done.append(await asyncio.get_running_loop().run_in_executor(None, act, asked))
        return await passed(store, asked, request)

    return fault


def owner_of(port: int) -> int | None:
    """Pid of the process of this machine that holds a TCP connection from this local port."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:
            for fields in (line.split() for line in lines):
                if fields[1].endswith(f":{port:04X}"):
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone in the meantime
            if any(str(file.readlink()) in inodes for file in (process / "fd").iterdir()):
                return int(process.name)
    return None


async def _ask(store: FaultyStore, request: web.BaseRequest) -> tuple[int, dict[str, str], bytes]:
    url = yarl.URL(store.upstream + request.raw_path, encoded=True)
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
    try:
        async with store._session.request(
            request.method,
            url,
            headers=headers,
            data=await request.content.read(),
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            body = await answer.read()
            if request.method != "HEAD":
                kept["Content-Length"] = str(len(body))
            return answer.status, kept, body
    except aiohttp.ClientError:  # nobody there
        return _break(request)


def _break(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("on purpose")

"""An HTTP proxy in front of the S3 server that records requests and bytes, so that tests can count those of any client."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One request, and the size of what came back."""

    method: str
    key: str  # bucket and path, without the query
    start: int | None  # first byte of a ranged read
    received: int


@contextmanager
def counting_proxy(endpoint: str) -> Iterator[tuple[str, list[Request]]]:
    """(endpoint of the proxy, its growing list of requests). The Host header goes on as it came: signatures cover it."""
    log: list[Request] = []
    server = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            behind = http.client.HTTPConnection(server, timeout=60)
            behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                behind.putheader(name, value)
            behind.endheaders(body)
            answer = behind.getresponse()
            data = answer.read()
            wanted = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
            key = unquote(urlsplit(self.path).path).strip("/")
            log.append(Request(self.command, key, int(wanted) if wanted else None, len(data)))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = answer.headers["Content-Length"] if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            self.wfile.write(data)
            behind.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

        def log_message(self, *args: object) -> None:
            """Nothing: the list is the log."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}", log
    finally:
        proxy.shutdown()
        proxy.server_close()

"""Serves the metrics over HTTP, on a thread of its own: one request after the other, each limited in time.

Not on the daemon's event loop: a handover does not wait while a page is written, nor can a client with many or slow
connections take the loop's time or the daemon's descriptors. What a page is made of is read on the loop, in one piece.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import socketserver
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client.core import Metric

from swanroam.config import Endpoint
from swanroam.daemon.exposition import Exposition, families
from swanroam.daemon.metrics import Reading

log = structlog.get_logger("swanroam")

REQUEST_LIMIT = 5.0
"""Seconds in which a client must have asked and taken its answer; then the next one's turn comes."""
READ_LIMIT = 5.0
"""Seconds in which the event loop must have told how things are."""
ACCEPT_PAUSE = 0.1
PATH = "/metrics"
_Start = Callable[[str, list[tuple[str, str]]], object]


class MetricsError(Exception):
    """The address can't be listened on; the message says why and what to do."""


class MetricsServer:
    """`read` tells how things are, on the event loop of who calls `listen`."""

    def __init__(self, read: Callable[[], Awaitable[Reading]]) -> None:
        self._read = read
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._endpoint: Endpoint | None = None

    async def listen(self, endpoint: Endpoint | None) -> None:
        """Serves there from now on, and nowhere else. Raises MetricsError; then it serves nowhere."""
        if endpoint != self._endpoint:
            await self._close()
            if endpoint is not None:
                self._open(endpoint)
            self._endpoint = endpoint

    def _open(self, endpoint: Endpoint) -> None:
        loop = asyncio.get_running_loop()

        async def gather() -> list[Metric]:
            return families(await self._read())

        def read() -> list[Metric]:
            future = asyncio.run_coroutine_threadsafe(gather(), loop)
            try:
                return future.result(READ_LIMIT)
            finally:
                future.cancel()

        try:
            self._server = _Server(endpoint, Exposition(read))
        except OSError as error:
            raise MetricsError(
                f"metrics.listen: cannot listen on {endpoint}: {error.strerror}: {_remedy(error)}"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics_served", url=f"http://{endpoint}{PATH}")

    async def _close(self) -> None:
        """Ends within the limit of a request."""
        server, thread = self._server, self._thread
        self._server = self._thread = self._endpoint = None
        if server is not None and thread is not None:
            await asyncio.to_thread(server.shutdown)
            await asyncio.to_thread(thread.join)
            server.server_close()


class _Server(WSGIServer):
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, endpoint: Endpoint, exposition: Exposition) -> None:
        self.address_family = socket.AF_INET if endpoint.address.version == 4 else socket.AF_INET6
        self._exposition = exposition
        super().__init__((str(endpoint.address), endpoint.port), _Handler)
        self.set_app(self._answer)

    def server_bind(self) -> None:
        """As the base class, but without asking a name server for the name of this host."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "swanroam", self.server_address[1]
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        """A connection that can't be had now, for want of descriptors, waits, and so does this thread."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_PAUSE)
            raise

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went, or took too long, is no news."""
        log.debug("metrics_request_failed", exc_info=True)

    def _answer(self, environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _say(start, "405 Method Not Allowed", "GET is all that there is\n")
        if environ["PATH_INFO"] != PATH:
            return _say(start, "404 Not Found", f"the metrics of swanroam are at {PATH}\n")
        try:
            page, content_type = self._exposition.page(environ.get("HTTP_ACCEPT", ""))
        except TimeoutError:
            return _say(start, "503 Service Unavailable", f"the daemon has not answered within {READ_LIMIT:g} s\n")
        start("200 OK", [("Content-Type", content_type), ("Content-Length", str(len(page)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else page]


def _say(start: _Start, status: str, text: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))])
    return [text.encode()]


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_LIMIT

    def setup(self) -> None:
        super().setup()
        # The limit above is for each read and write; this one for all of them.
        self._limit = threading.Timer(REQUEST_LIMIT, self._cut)
        self._limit.daemon = True
        self._limit.start()

    def finish(self) -> None:
        self._limit.cancel()
        super().finish()

    def _cut(self) -> None:
        with suppress(OSError):  # it has gone
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class calls it that
        """Requests are not logged."""


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program has that port: choose another one"
        case errno.EADDRNOTAVAIL:
            return "this host does not have that address: choose one that stays, such as 127.0.0.1"
        case errno.EACCES:
            return "ports below 1024 are not for swanroam: choose another one"
        case _:
            return "choose another address or port"

"""The HTTP endpoint: what it answers, and that nobody can hold up the daemon by it."""

from __future__ import annotations

import asyncio
import http.client
import os
import resource
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from swanroam.config import Endpoint
from swanroam.daemon import metrics_server
from swanroam.daemon.counts import Counts
from swanroam.daemon.metrics import Reading
from swanroam.daemon.metrics_server import MetricsError, MetricsServer

LOOPBACK = ip_address("127.0.0.1")


def reading() -> Reading:
    return Reading(Counts(), (), {}, 0, 0, Counter(), Counter(), {}, {}, True, True, True, True)


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """As when all are in use. (A limit of 0 would not let poll(2) look at those that are open.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def at_once() -> Reading:
    return reading()


def free(address: str = "127.0.0.1") -> Endpoint:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return Endpoint(ip_address(address), probe.getsockname()[1])


def serving(
    use: Callable[[MetricsServer, Endpoint], Awaitable[None]],
    read: Callable[[], Awaitable[Reading]] = at_once,
    endpoint: Endpoint | None = None,
) -> None:
    async def run() -> None:
        server, at = MetricsServer(read), endpoint or free()
        await server.listen(at)
        try:
            await use(server, at)
        finally:
            await server.listen(None)

    asyncio.run(run())


def get(endpoint: Endpoint, path: str = "/metrics", method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(str(endpoint.address), endpoint.port, timeout=20)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_page_comes_in_the_format_that_is_asked_for(address: str) -> None:
    async def use(server: MetricsServer, at: Endpoint) -> None:
        plain = await asyncio.to_thread(get, at)
        om = await asyncio.to_thread(get, at, Accept="application/openmetrics-text; version=1.0.0, text/plain;q=0.5")

        assert (plain.status, om.status) == (200, 200)
        assert plain.headers["Content-Type"].startswith("text/plain; version=")
        assert om.headers["Content-Type"].startswith("application/openmetrics-text; version=")
        assert b"swanroam_build_info{" in plain.body  # type: ignore[attr-defined]
        assert om.body.endswith(b"# EOF\n")  # type: ignore[attr-defined]

    serving(use, endpoint=free(address))


def test_other_pages_and_methods_are_refused_in_words() -> None:
    async def use(server: MetricsServer, at: Endpoint) -> None:
        other = await asyncio.to_thread(get, at, "/")
        posted = await asyncio.to_thread(get, at, "/metrics", "POST")
        head = await asyncio.to_thread(get, at, "/metrics", "HEAD")

        assert (other.status, other.body) == (404, b"the metrics of swanroam are at /metrics\n")  # type: ignore[attr-defined]
        assert posted.status == 405
        assert (head.status, head.body) == (200, b"")  # type: ignore[attr-defined]

    serving(use)


def test_the_loop_goes_on_while_a_page_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    writing, written = threading.Event(), threading.Event()

    def slow(self: object, accept: str) -> tuple[bytes, str]:
        writing.set()
        assert written.wait(20)
        return b"page", "text/plain"

    monkeypatch.setattr(metrics_server.Exposition, "page", slow)

    async def use(server: MetricsServer, at: Endpoint) -> None:
        asked = asyncio.create_task(asyncio.to_thread(get, at))
        while not writing.is_set():
            await asyncio.sleep(0.001)
        for _ in range(10):  # the loop turns
            await asyncio.sleep(0)
        written.set()
        assert (await asked).status == 200

    serving(use)


def test_a_loop_that_does_not_answer_is_told_and_nothing_is_left_of_the_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_server, "READ_LIMIT", 0.05)
    ended: list[bool] = []

    async def never() -> Reading:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)
        raise AssertionError

    async def use(server: MetricsServer, at: Endpoint) -> None:
        answer = await asyncio.to_thread(get, at)
        assert answer.status == 503
        async with asyncio.timeout(10):
            while not ended:
                await asyncio.sleep(0.001)

    serving(use, never)


@pytest.mark.parametrize("first", [b"", b"GET /met"])
def test_a_client_that_says_nothing_is_cut_off_and_the_next_one_served(
    monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.2)
    monkeypatch.setattr(metrics_server, "REQUEST_LIMIT", 0.2)

    async def use(server: MetricsServer, at: Endpoint) -> None:
        with socket.create_connection((str(at.address), at.port)) as idle:
            idle.sendall(first)
            assert (await asyncio.to_thread(get, at)).status == 200

    serving(use)


def test_a_client_that_sends_byte_by_byte_is_cut_off_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "REQUEST_LIMIT", 0.3)

    def trickle(at: Endpoint) -> None:
        with socket.create_connection((str(at.address), at.port)) as slow:
            for _ in range(1000):
                try:
                    slow.sendall(b"G")
                except OSError:
                    return
                time.sleep(0.02)
        raise AssertionError("it was served for 20 s")

    async def use(server: MetricsServer, at: Endpoint) -> None:
        trickling = asyncio.create_task(asyncio.to_thread(trickle, at))
        await asyncio.sleep(0.05)
        assert (await asyncio.to_thread(get, at)).status == 200
        await trickling

    serving(use)


def test_a_port_that_is_taken_is_told_with_the_remedy() -> None:
    async def use(server: MetricsServer, at: Endpoint) -> None:
        with pytest.raises(
            MetricsError, match=rf"metrics.listen: cannot listen on {at}: .*: another program has that port"
        ):
            await MetricsServer(at_once).listen(at)

    serving(use)


def test_an_address_that_the_host_does_not_have_is_told() -> None:
    async def run() -> None:
        with pytest.raises(MetricsError, match="this host does not have that address: choose one that stays"):
            await MetricsServer(at_once).listen(Endpoint(ip_address("192.0.2.1"), 9510))

    asyncio.run(run())


def test_it_goes_to_another_port_and_the_old_one_is_free() -> None:
    async def use(server: MetricsServer, at: Endpoint) -> None:
        other = free()
        await server.listen(other)
        assert (await asyncio.to_thread(get, other)).status == 200
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(get, at)
        await server.listen(other)  # no change
        assert (await asyncio.to_thread(get, other)).status == 200
        await server.listen(None)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(get, other)
        assert "metrics" not in {thread.name for thread in threading.enumerate()}

    serving(use)


def test_without_descriptors_it_waits_and_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[None] = []
    original = socketserver.TCPServer.get_request

    def counted(self: socketserver.TCPServer) -> tuple[socket.socket, object]:
        tries.append(None)
        return original(self)

    monkeypatch.setattr(socketserver.TCPServer, "get_request", counted)

    async def use(server: MetricsServer, at: Endpoint) -> None:
        with socket.socket() as client:
            with no_more_descriptors():
                client.connect((str(at.address), at.port))
                client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                await asyncio.sleep(0.5)
            failed = len(tries)
            client.settimeout(20)
            answer = await asyncio.to_thread(client.recv, 100)
        assert 1 <= failed <= 0.5 / metrics_server.ACCEPT_PAUSE + 1
        assert answer.startswith(b"HTTP/1.0 200 OK")

    serving(use)

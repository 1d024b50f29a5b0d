"""The control channel's socket, on loopback: what comes in is decoded, counted or dropped, and nothing is fatal."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address

import pytest

from swanroam.config import LogFormat, LogLevel
from swanroam.daemon import control_channel, logs
from swanroam.daemon.control_channel import ControlChannel, ControlChannelError
from swanroam.protocol.codec import MAX_DATAGRAM, MessageProblem, encode
from swanroam.protocol.messages import FiltersRequest, Message, Stage

LOOPBACK = IPv6Address("::1")
MESSAGE = FiltersRequest(1, bytes(8), Stage.MOVE)
NO_MARK = 0
"""SO_MARK 0 needs no privilege."""


def free_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::1", 0))
        port: int = probe.getsockname()[1]
        return port


def peer_socket(port: int) -> socket.socket:
    """Sends from the control port, as a peer on another address of the same host would; to itself, on loopback."""
    sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sender.bind(("::1", port))
    return sender


def unused(address: IPv6Address, port: int) -> ControlChannel:
    """One to which nothing comes."""
    return ControlChannel(address, port, NO_MARK, lambda sender: "", lambda sender, message: "")


def with_channel(use: Callable[[ControlChannel, int, list[tuple[IPv6Address, Message]]], Awaitable[None]]) -> None:
    async def run() -> None:
        received: list[tuple[IPv6Address, Message]] = []
        port = free_port()

        def deliver(sender: IPv6Address, message: Message) -> str:
            received.append((sender, message))
            return ""

        channel = ControlChannel(LOOPBACK, port, NO_MARK, lambda sender: "", deliver)
        channel.open()
        try:
            async with asyncio.timeout(10):
                await use(channel, port, received)
        finally:
            channel.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_message_arrives_with_its_senders_inner_address() -> None:
    async def use(channel: ControlChannel, port: int, received: list[tuple[IPv6Address, Message]]) -> None:
        channel.send(LOOPBACK, MESSAGE)  # its own socket has the right port
        await until(lambda: bool(received))
        assert received == [(LOOPBACK, MESSAGE)]
        assert not channel.dropped
        assert not channel.unsent

    with_channel(use)


@pytest.mark.parametrize(
    ("datagram", "problem"),
    [
        (b"", MessageProblem.TOO_SHORT),
        (b"SR\x01", MessageProblem.TOO_SHORT),
        (b"GET / HTTP/1.1\r\n", MessageProblem.NOT_OURS),
        (b"SR\x02\x01", MessageProblem.VERSION),
        (b"SR\x01\xee", MessageProblem.UNKNOWN_TYPE),
        (encode(MESSAGE)[:-1], MessageProblem.TRUNCATED),
        (b"SR\x01\x04", MessageProblem.MISSING),
        (encode(MESSAGE) + b"\xff\x00\x00", MessageProblem.UNKNOWN_CRITICAL),
        (encode(MESSAGE) + bytes(MAX_DATAGRAM), MessageProblem.TOO_LONG),
        (bytes(60_000), MessageProblem.TOO_LONG),
    ],
    ids=lambda value: value.value if isinstance(value, MessageProblem) else "",
)
def test_what_is_no_message_is_counted_by_its_reason(datagram: bytes, problem: MessageProblem) -> None:
    async def use(channel: ControlChannel, port: int, received: list[tuple[IPv6Address, Message]]) -> None:
        assert channel._socket is not None
        channel._socket.sendto(datagram, ("::1", port))
        await until(lambda: bool(channel.dropped))
        assert dict(channel.dropped) == {problem.value: 1}
        channel.send(LOOPBACK, MESSAGE)
        await until(lambda: bool(received))

    with_channel(use)


def test_what_comes_from_another_port_is_no_controllers() -> None:
    async def use(channel: ControlChannel, port: int, received: list[tuple[IPv6Address, Message]]) -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(encode(MESSAGE), ("::1", port))
        await until(lambda: bool(channel.dropped or received))
        assert dict(channel.dropped) == {"wrong_port": 1}
        assert not received

    with_channel(use)


def test_a_flood_does_not_keep_the_loop_from_other_work() -> None:
    async def use(channel: ControlChannel, port: int, received: list[tuple[IPv6Address, Message]]) -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stranger:
            for _ in range(150):
                stranger.sendto(b"x", ("::1", port))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert channel.dropped.total() <= 128  # two turns of the loop, at most 64 datagrams each
        await until(lambda: channel.dropped.total() == 150)

    with_channel(use)


def test_who_is_not_admitted_is_not_even_read() -> None:
    async def run() -> None:
        port = free_port()
        delivered: list[Message] = []

        def deliver(sender: IPv6Address, message: Message) -> str:
            delivered.append(message)
            return ""

        channel = ControlChannel(LOOPBACK, port, NO_MARK, lambda sender: "nobody", deliver)
        channel.open()
        try:
            async with asyncio.timeout(10):
                channel.send(LOOPBACK, MESSAGE)
                assert channel._socket is not None
                channel._socket.sendto(b"no message at all", ("::1", port))
                await until(lambda: channel.dropped.total() + len(delivered) == 2)
        finally:
            channel.close()
        assert dict(channel.dropped) == {"nobody": 2}
        assert not delivered

    asyncio.run(run())


def test_what_is_not_taken_on_is_counted_with_the_reason() -> None:
    async def run() -> None:
        channel = ControlChannel(LOOPBACK, free_port(), NO_MARK, lambda sender: "", lambda sender, message: "full")
        channel.open()
        try:
            async with asyncio.timeout(10):
                channel.send(LOOPBACK, MESSAGE)
                await until(lambda: bool(channel.dropped))
        finally:
            channel.close()
        assert dict(channel.dropped) == {"full": 1}

    asyncio.run(run())


def test_a_hundred_thousand_bad_datagrams_are_one_line_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        channel = unused(LOOPBACK, free_port())
        channel.open()
        bad = [b"", b"SR\x01\xee", b"x" * 2000, encode(MESSAGE)[:-1]]
        for number in range(100_000):
            channel._drop(channel._take(bad[number % 4], "::1", channel._port))
        channel.close()

    logs.configure(LogFormat.JSON, LogLevel.DEBUG)
    asyncio.run(run())

    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told["event"] == "datagrams_dropped"
    assert {name: told[name] for name in ("too_short", "unknown_type", "too_long", "truncated_field")} == dict.fromkeys(
        ("too_short", "unknown_type", "too_long", "truncated_field"), 25_000
    )


def test_drops_are_told_again_only_after_a_while_and_only_new_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_channel, "TELL_FIRST", 0.01)
    monkeypatch.setattr(control_channel, "TELL_AGAIN", 0.02)

    async def run() -> None:
        channel = unused(LOOPBACK, free_port())
        channel.open()
        channel._drop("too_short")
        await until(lambda: channel._told.total() == 1)
        channel._drop("too_long")
        await until(lambda: channel._told.total() == 2)
        await until(lambda: channel._telling is None)
        channel.close()

    logs.configure(LogFormat.JSON, LogLevel.DEBUG)
    asyncio.run(run())

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line.get("too_short"), line.get("too_long")) for line in lines] == [(1, None), (None, 1)]


def test_after_a_line_about_drops_the_next_waits_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_channel, "TELL_FIRST", 0.01)

    async def run() -> None:
        channel = unused(LOOPBACK, free_port())
        channel.open()
        channel._drop("too_short")
        await until(lambda: channel._told.total() == 1)
        channel._drop("too_long")
        await asyncio.sleep(0.1)
        assert channel._told.total() == 1
        channel.close()
        assert channel._told.total() == 2, "the last line is written at the end"

    asyncio.run(run())


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EINVAL])
def test_a_datagram_that_the_kernel_does_not_take_is_counted_and_not_fatal(number: int) -> None:
    class Refusing:
        def sendto(self, *_: object) -> None:
            raise OSError(number, "refused")

    channel = unused(LOOPBACK, 1)
    channel._socket = Refusing()  # type: ignore[assignment]  # the kernel's part

    channel.send(LOOPBACK, MESSAGE)

    assert dict(channel.unsent) == {errno.errorcode[number]: 1}


def test_an_icmp_error_is_counted_and_what_comes_after_it_is_read() -> None:
    class Reporting:
        def __init__(self) -> None:
            self.answers = [OSError(errno.ECONNREFUSED, "refused"), (encode(MESSAGE), ("::1", 1)), BlockingIOError()]

        def recvfrom(self, _: int) -> object:
            answer = self.answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return answer

    received: list[Message] = []

    def deliver(_: IPv6Address, message: Message) -> str:
        received.append(message)
        return ""

    channel = ControlChannel(LOOPBACK, 1, NO_MARK, lambda sender: "", deliver)
    channel._socket = Reporting()  # type: ignore[assignment]  # the kernel's part

    channel._readable()

    assert dict(channel.unsent) == {"ECONNREFUSED": 1}
    assert received == [MESSAGE]


def test_a_port_that_is_taken_is_told_with_the_remedy() -> None:
    async def run() -> None:
        port = free_port()
        with peer_socket(port):
            channel = unused(LOOPBACK, port)
            with pytest.raises(ControlChannelError, match=rf"\[::1\]:{port}: Address already in use: .*control.port"):
                channel.open()

    asyncio.run(run())


def test_an_inner_address_that_is_not_there_is_told() -> None:
    async def run() -> None:
        channel = unused(IPv6Address("2001:db8::1"), free_port())
        with pytest.raises(ControlChannelError, match="Cannot assign requested address"):
            channel.open()

    asyncio.run(run())

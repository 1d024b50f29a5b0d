"""Unmodified programs that talk between two hosts, started, steered and asked for their results.

    bulk = lab.traffic.tcp_bulk(lab.mobile, lab.correspondent, rate=400_000)
    lab.mobile.move_to("net-b")
    bulk.stop().check()

The programs (programs/*.py) are processes of their own with ordinary sockets; nothing of the lab runs in them.
"""

import array
import contextlib
import itertools
import json
import random
import select
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.host import Host
from lab.waiting import wait_for

PROGRAMS = Path(__file__).parent / "programs"
# Without site and environment: started in a fraction of the time, and surely without anything of ours on its path.
PYTHON = [sys.executable, "-S", "-E"]
ANSWER_TIMEOUT = 30.0


class TrafficError(AssertionError):
    """A connection was not what its user expects; the message says in what."""


class Program:
    """One running program: lines of JSON from it, commands to it."""

    def __init__(self, host: Host, name: str, *arguments: object) -> None:
        self.host = host
        self.name = f"{name} {arguments[0]} in {host.name}"
        argv = [*PYTHON, str(PROGRAMS / f"{name}.py"), *(str(argument) for argument in arguments)]
        self._process = host.popen(argv, stdin=subprocess.PIPE)

    def answer(self, timeout: float = ANSWER_TIMEOUT) -> dict[str, Any]:
        """The next line that it says. Raises TrafficError when none comes."""
        assert self._process.stdout is not None
        # Lines are small and the program flushes each: a readable pipe holds a whole one.
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise TrafficError(f"{self.name}: says nothing for {timeout:g} s")
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise TrafficError(f"{self.name}: ended: {self._process.stderr.read()}")
        record: dict[str, Any] = json.loads(line)
        return record

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself; its answer says why
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float = ANSWER_TIMEOUT) -> None:
        """Wait for its end."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TrafficError(f"{self.name}: does not end") from error

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True, slots=True)
class TcpBulkResult:
    """What both ends of a bulk connection say. Times in seconds, of CLOCK_MONOTONIC where they are points in time."""

    client: dict[str, Any]
    server: dict[str, Any]

    @property
    def errors(self) -> list[str]:
        """What went wrong at either end, wrong bytes among it."""
        return [*self.client["errors"], *self.server["errors"]]

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes from the connecting side and to it."""
        return int(self.server["received"]), int(self.client["received"])

    @property
    def longest_silence(self) -> float:
        """The longest time in which one end received nothing."""
        return max(float(self.client["longest_silence"]), float(self.server["longest_silence"]))

    def check(self) -> "TcpBulkResult":
        """Raises TrafficError unless every byte sent arrived once, in order, both ways, and both ends closed well."""
        problems = list(self.errors)
        for name, sender, receiver in (
            ("to the server", self.client, self.server),
            ("to the client", self.server, self.client),
        ):
            if (sender["sent"], sender["sent_digest"]) != (receiver["received"], receiver["received_digest"]):
                problems.append(f"{name}: {sender['sent']} bytes sent, {receiver['received']} received")
            if not sender["sent"]:
                problems.append(f"{name}: nothing was sent")
        if problems:
            raise TrafficError(f"TCP bulk: {'; '.join(problems)}")
        return self


@dataclass(slots=True)
class TcpBulk:
    """A bulk connection that runs until `stop`."""

    client: Program
    server: Program
    local_address: str
    """What the kernel chose as source address."""

    def stop(self, timeout: float = 60.0) -> TcpBulkResult:
        """Let both directions finish, and return what was moved."""
        self.client.tell("stop")
        result = TcpBulkResult(client=self.client.answer(timeout), server=self.server.answer(timeout))
        self.client.wait()
        self.server.wait()
        return result


@dataclass(frozen=True, slots=True)
class TcpRequestsResult:
    """What the connecting side of a request connection says. Seconds."""

    requests: int
    bytes: int
    longest_response: float
    longest_silence: float
    errors: list[str]

    def check(self) -> "TcpRequestsResult":
        """Raises TrafficError on any error, or when there was no request."""
        if self.errors or not self.requests:
            raise TrafficError(f"TCP requests: {self.requests} made, errors: {self.errors}")
        return self


@dataclass(slots=True)
class TcpRequests:
    """A connection on which requests are made: at intervals, or with `use`."""

    client: Program
    server: Program
    local_address: str

    def use(self, timeout: float = 60.0) -> float:
        """Make one request on an idle connection; returns the seconds until its response. Raises TrafficError."""
        self.client.tell("use")
        answer = self.client.answer(timeout)
        if "response_seconds" not in answer:
            raise TrafficError(f"{self.client.name}: {answer.get('errors')}")
        return float(answer["response_seconds"])

    def stop(self, timeout: float = 60.0) -> TcpRequestsResult:
        """End the connection."""
        self.client.tell("stop")
        said = self.client.answer(timeout)
        self.client.wait()
        self.server.kill()
        return TcpRequestsResult(
            requests=said["requests"],
            bytes=said["bytes"],
            longest_response=said["longest_response"],
            longest_silence=said["longest_silence"],
            errors=said["errors"],
        )


@dataclass(frozen=True, slots=True)
class UdpDirection:
    """One way of a UDP stream. Times are of CLOCK_MONOTONIC, the same on all hosts."""

    sent: int
    """Packets that were due, those that the kernel refused among them."""
    received: int
    """Different packets that arrived."""
    duplicated: int
    lost: list[tuple[int, float]]
    """Sequence number and time of sending of what did not arrive."""
    refused: list[tuple[int, float]]
    """The part of `lost` for which sending returned an error."""
    longest_silence: float
    silence_began: float
    errors: dict[str, int]
    """What the sender's socket calls returned, and how often."""

    def __str__(self) -> str:
        text = f"{self.received} of {self.sent} packets, {self.duplicated} doubled, {len(self.refused)} refused"
        return f"{text}, longest silence {self.longest_silence * 1000:.0f} ms, errors {self.errors}"

    def lost_between(self, began: float, ended: float) -> list[tuple[int, float]]:
        """Lost packets that were sent in this time."""
        return [(number, sent) for number, sent in self.lost if began <= sent <= ended]

    def lost_outside(self, began: float, ended: float) -> list[tuple[int, float]]:
        """Lost packets that were sent before or after this time."""
        return [(number, sent) for number, sent in self.lost if not began <= sent <= ended]


@dataclass(frozen=True, slots=True)
class UdpResult:
    """Both ways of a UDP stream."""

    up: UdpDirection
    """From the connecting side."""
    down: UdpDirection

    def __str__(self) -> str:
        return f"up: {self.up}; down: {self.down}"


@dataclass(slots=True)
class UdpStream:
    """A UDP stream that runs until `stop`."""

    client: Program
    server: Program
    local_address: str
    _files: tuple[Path, Path]

    def received(self) -> tuple[int, int]:
        """Packets that have arrived so far: at the listening side, at the connecting side."""
        counts = []
        for program in (self.server, self.client):
            program.tell("count")
            counts.append(int(program.answer()["received"]))
        return counts[0], counts[1]

    def wait_received(self, count: int, timeout: float = 60.0) -> None:
        """Wait until so many more packets have arrived at both ends."""
        wanted = [before + count for before in self.received()]
        wait_for(
            lambda: all(has >= want for has, want in zip(self.received(), wanted, strict=True)),
            timeout,
            f"{count} more UDP packets have arrived both ways",
            lambda: f"so far: {self.received()}",
            poll=0.1,
        )

    def stop(self, drain: float = 0.5) -> UdpResult:
        """Stop sending at both ends, receive for `drain` seconds more, and return what arrived."""
        for program in (self.client, self.server):
            program.tell("quiet")
        for program in (self.client, self.server):
            program.answer()
        time.sleep(drain)  # what is on its way arrives by itself; there is no event to wait for
        said = []
        for program in (self.client, self.server):
            program.tell("stop")
            said.append(program.answer())
            program.wait()
        client, server = (_read_record(path) for path in self._files)
        return UdpResult(
            up=direction(client, server, said[0]["errors"]), down=direction(server, client, said[1]["errors"])
        )


@dataclass(frozen=True, slots=True)
class Record:
    sent: "array.array[float]"
    received: "array.array[int]"
    received_at: "array.array[float]"


def _read_record(path: Path) -> Record:
    data = path.read_bytes()
    position, parts = 0, []
    for kind in "dQd":
        (count,) = struct.unpack_from("=Q", data, position)
        values = array.array(kind)
        values.frombytes(data[position + 8 : position + 8 + 8 * count])
        position += 8 + 8 * count
        parts.append(values)
    return Record(*parts)


def direction(sender: Record, receiver: Record, errors: dict[str, int]) -> UdpDirection:
    arrived = set(receiver.received)
    lost = [(number, abs(sent)) for number, sent in enumerate(sender.sent) if number not in arrived]
    times = receiver.received_at
    # Between two arrivals; the beginning and the end of the stream are no silence.
    gaps = [(later - earlier, earlier) for earlier, later in itertools.pairwise(times)]
    silence, began = max(gaps, default=(0.0, 0.0))
    return UdpDirection(
        sent=len(sender.sent),
        received=len(arrived),
        duplicated=len(receiver.received) - len(arrived),
        lost=lost,
        refused=[(number, sent) for number, sent in lost if sender.sent[number] < 0],
        longest_silence=silence,
        silence_began=began,
        errors=errors,
    )


@dataclass(slots=True)
class Traffic:
    """Starts programs. The first host connects to the second at the address that it has now."""

    directory: Path
    random: random.Random
    _streams: int = field(default=0)

    def tcp_bulk(self, client: Host, server: Host, *, rate: int = 400_000) -> TcpBulk:
        """Both ways, `rate` bytes per second each, 0 for as fast as it goes."""
        seed = self.random.randrange(2**32)
        listening = Program(server, "tcp_bulk", "listen", server.family.value, rate, seed)
        port = listening.answer()["port"]
        connecting = Program(client, "tcp_bulk", "connect", server.address, port, rate, seed)
        return TcpBulk(connecting, listening, connecting.answer()["local"])

    def tcp_requests(
        self,
        client: Host,
        server: Host,
        *,
        interval: float = 0.02,
        size: int = 200,
        port: int = 0,
        source_port: int | None = None,
    ) -> TcpRequests:
        """Requests every `interval` seconds; 0: an idle connection, used with `use`.

        `port`: of the server, 0 for any. With `source_port` the client binds its socket to its address and that port.
        """
        listening = Program(server, "tcp_requests", "listen", server.family.value, port)
        where = server.address, listening.answer()["port"]
        source = () if source_port is None else (client.address, source_port)
        connecting = Program(client, "tcp_requests", "connect", *where, interval, size, *source)
        return TcpRequests(connecting, listening, connecting.answer()["local"])

    def tcp_idle(
        self, client: Host, server: Host, *, size: int = 1000, port: int = 0, source_port: int | None = None
    ) -> TcpRequests:
        """A connection on which nothing happens until `use`; used once already."""
        connection = self.tcp_requests(client, server, interval=0, size=size, port=port, source_port=source_port)
        connection.use()
        return connection

    def udp_stream(
        self, client: Host, server: Host, *, rate: float = 1000, size: int = 100, connected: bool = True
    ) -> UdpStream:
        """`rate` packets of `size` bytes per second both ways; returns when both directions flow.

        Connected: the source address is chosen once. Not connected: by the kernel for every packet, and the server
        answers to the address that it heard last.
        """
        self._streams += 1
        files = tuple(self.directory / f"udp-{self._streams}.{end}" for end in ("client", "server"))
        listening = Program(server, "udp_stream", "listen", server.family.value, rate, size, files[1])
        port = listening.answer()["port"]
        mode = "connect" if connected else "send"
        connecting = Program(client, "udp_stream", mode, server.address, port, rate, size, files[0])
        return UdpStream(connecting, listening, connecting.answer()["local"], (files[0], files[1]))

"""Two hosts on one cable, programs on them, and their movers, driven as the two daemons would."""

from __future__ import annotations

import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Self, TypeVar

from kernel import mover_nurseries
from swanroam.kernel.sock_diag import SocketProtocol
from swanroam.transport import nursery
from swanroam.transport.orders import (
    Answer,
    Entry,
    Go,
    Gone,
    Inspect,
    Inspected,
    Order,
    Place,
    Rebuild,
    Rebuilt,
    Stop,
    Stopped,
    Unlock,
    decode,
    encode,
)

OLD, OLD6 = ip_address("10.0.0.1"), ip_address("2001:db8::1")
NEW, NEW6 = ip_address("10.0.0.3"), ip_address("2001:db8::3")
PEER, PEER6 = ip_address("10.0.0.2"), ip_address("2001:db8::2")
SERVER_PORT = 7000

PROGRAMS = Path(__file__).parent / "mover_programs.py"
PATIENCE = 20.0
"""Seconds after which a test takes it that something will not happen any more."""

T = TypeVar("T", bound=Answer)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class MoverDied(AssertionError):  # noqa: N818 - that it died is what happened
    """Its end of the channel is closed."""


class OtherAnswer(AssertionError):  # noqa: N818 - what it is depends on the test
    """Not what it was asked for."""

    def __init__(self, answer: Order | Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class Mover:
    """The daemon's side of a mover process."""

    def __init__(self, channel: socket.socket, transfers: Iterable[int] = range(1, 1 << 30)) -> None:
        self.channel = channel
        self._received = b""
        self._transfers = iter(transfers)

    def send(self, *orders: Order) -> None:
        try:
            self.channel.sendall(b"".join(encode(order) for order in orders))
        except BrokenPipeError as error:
            raise MoverDied from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive(self, kind: type[T], timeout: float = PATIENCE) -> T:
        answer = self.receive_any(kind, timeout=timeout)
        assert isinstance(answer, kind)
        return answer

    def receive_any(self, *kinds: type[Answer], timeout: float = PATIENCE) -> Order | Answer:
        self.channel.settimeout(timeout)
        while b"\n" not in self._received:
            try:
                part = self.channel.recv(1 << 20)
            except ConnectionResetError as error:
                raise MoverDied from error
            if not part:
                raise MoverDied
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        answer = decode(line)
        if not isinstance(answer, kinds):
            raise OtherAnswer(answer)
        return answer

    def ask(self, order: Order, kind: type[T]) -> T:
        self.send(order)
        return self.receive(kind)

    def next_transfer(self) -> int:
        return next(self._transfers)

    def stop(self, transfer: int, entries: Sequence[Entry], **limits: float) -> Stopped:
        return self.ask(Stop(transfer, tuple(entries), **limits), Stopped)  # type: ignore[arg-type]

    def rebuild(self, transfer: int, numbers: dict[int, int]) -> Rebuilt:
        return self.ask(Rebuild(transfer, numbers), Rebuilt)

    def go(self, transfer: int, back: tuple[int, ...] = (), keep_locks: tuple[int, ...] = ()) -> Gone:
        return self.ask(Go(transfer, back, keep_locks), Gone)

    def inspect(self, entries: Sequence[Entry], **more: object) -> Inspected:
        return self.ask(Inspect(0, tuple(entries), **more), Inspected)  # type: ignore[arg-type]

    def where(self, entry: Entry) -> Place:
        """Where a connection stands; waits while it is nowhere because a worker is about to finish it."""
        deadline = time.monotonic() + PATIENCE
        while (place := self.inspect([entry]).found[0]) is Place.NONE:
            assert time.monotonic() < deadline, "the connection is gone"
            time.sleep(0.002)
        return place

    def close(self) -> None:
        """As the daemon's death does."""
        self.channel.close()

    def wait_ended(self) -> None:
        """Until its end of the channel is closed, which only its own end does."""
        self.channel.settimeout(PATIENCE)
        while self.channel.recv(4096):
            pass


class Program:
    """One of mover_programs.py, or another: with lines as its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def line(self, timeout: float = PATIENCE) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        assert ready, "the program says nothing"
        return self.process.stdout.readline().rstrip("\n")

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def ask(self, text: str) -> str:
        self.say(text)
        return self.line()

    def total(self) -> int:
        """Octets that have come back to a client."""
        return int(self.ask("total"))

    def goes_on(self, octets: int = 60_000) -> None:
        """Wait until so much more has come back: more than can have been on its way."""
        wanted = self.total() + octets
        deadline = time.monotonic() + PATIENCE
        while self.total() < wanted:
            assert time.monotonic() < deadline, "nothing comes back any more"
            time.sleep(0.002)

    def end(self) -> None:
        """Tell a client to end; everything must have come back."""
        self.say("end")
        assert self.line().startswith("ok ")

    def state(self) -> str:
        """As in /proc/PID/stat: R, S, T for stopped, t for traced."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]


class Host:
    """A network namespace; programs and movers in it end with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._movers: socket.socket | None = None
        self._holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE
        )
        stack.callback(_end, self._holder)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self.ip("link set lo up")

    @property
    def holder(self) -> int:
        return self._holder.pid

    @property
    def _enter(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]

    def ip(self, *lines: str) -> str:
        done = subprocess.run(
            [*self._enter, "ip", "-batch", "-"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{lines}: {done.stderr}"
        return done.stdout

    def start(self, *argv: str, pass_fds: Sequence[int] = ()) -> Program:
        process = subprocess.Popen(
            [*self._enter, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self._stack.callback(_end, process)
        return Program(process)

    def python(self, *arguments: str) -> Program:
        return self.start(sys.executable, "-u", str(PROGRAMS), *arguments)

    def mover(self) -> Mover:
        """A mover as the daemon gets it: from the host's one nursery."""
        if self._movers is None:
            self._movers = self.nursery()
        channel = nursery.ask(self._movers)
        self._stack.callback(channel.close)
        return Mover(channel)

    def nursery(self, kind: str = "movers") -> socket.socket:
        """A process that forks movers for requests."""
        self.nursery_pid, ours = mover_nurseries.start(self.holder, kind)
        self._stack.callback(ours.close)
        return ours

    def nursery_program(self, *argv: str) -> socket.socket:
        """One that is started as a program, which is given the option --fd."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen([*self._enter, *argv, "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()])
        self._stack.callback(_end, process)
        self._stack.callback(ours.close)
        return ours

    def resets_sent(self) -> int:
        text = Path(f"/proc/{self._holder.pid}/net/snmp").read_text()
        names, values = re.findall(r"^Tcp: (.*)$", text, re.MULTILINE)
        return int(dict(zip(names.split(), values.split(), strict=True))["OutRsts"])

    def locks(self) -> int:
        """How many connections are locked."""
        return self.start("ip", "xfrm", "policy").process.communicate()[0].count("action block")


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    process.wait()


class Pair(ExitStack):
    """A mobile host, whose address changes from OLD to NEW, and its correspondent."""

    mobile: Host
    peer: Host

    def __enter__(self) -> Self:
        super().__enter__()
        self.mobile, self.peer = Host(self), Host(self)
        self.mobile.ip(
            f"link add wire type veth peer name wire netns {self.peer.holder}",
            f"address add {OLD}/24 dev wire",
            f"address add {NEW}/24 dev wire",
            f"address add {OLD6}/64 dev wire nodad",
            f"address add {NEW6}/64 dev wire nodad",
            "link set wire up",
        )
        self.peer.ip(f"address add {PEER}/24 dev wire", f"address add {PEER6}/64 dev wire nodad", "link set wire up")
        return self

    def movers(self) -> tuple[Mover, Mover]:
        return self.mobile.mover(), self.peer.mover()

    def client(self, style: str, count: int = 1, server: str = str(PEER)) -> tuple[Program, list[int]]:
        """A client, connected to a server on the other host, and the ports of its connections."""
        echo = self.peer.python("echo", "::" if ":" in server else "")
        assert echo.line() == "up"
        client = self.mobile.python("client", style, str(count), server)
        ports = [int(port) for port in client.line().split()[1:]]
        until(lambda: int(echo.ask("accepted")) == count)  # before that nobody has the server's sockets
        return client, ports

    def clients_of(self, mobile_host: str, *, count: int = 1) -> tuple[Program, list[int]]:
        """The other way round: a client on the peer, connected to this address of a server on the mobile host."""
        client = self.peer.python("client", "blocking", str(count), mobile_host)
        ports = [int(port) for port in client.line().split()[1:]]
        client.goes_on()  # all have been accepted
        return client, ports

    def resets(self) -> int:
        """RSTs that either host has sent."""
        return self.mobile.resets_sent() + self.peer.resets_sent()

    def steer(self, source: object) -> None:
        """From now on routes choose this source address."""
        self.mobile.ip(f"route replace {PEER6 if ':' in str(source) else PEER} dev wire src {source}")


def entries(*ports: int, protocol: SocketProtocol = SocketProtocol.TCP) -> tuple[list[Entry], list[Entry]]:
    """Connections from these ports of the mobile host: as the mobile host and as its peer sees them."""
    mobile = [Entry(protocol, OLD, port, PEER, SERVER_PORT, NEW, PEER) for port in ports]
    peer = [Entry(protocol, PEER, SERVER_PORT, OLD, port, PEER, NEW) for port in ports]
    return mobile, peer


def entries6(*ports: int) -> tuple[list[Entry], list[Entry]]:
    """As `entries`, between the IPv6 addresses."""
    mobile = [Entry(SocketProtocol.TCP, OLD6, port, PEER6, SERVER_PORT, NEW6, PEER6) for port in ports]
    return mobile, [_seen_by_the_peer(entry) for entry in mobile]


def accepted(*ports: int) -> tuple[list[Entry], list[Entry]]:
    """Connections from these ports of the peer to a server on the mobile host."""
    mobile = [Entry(SocketProtocol.TCP, OLD, SERVER_PORT, PEER, port, NEW, PEER) for port in ports]
    return mobile, [_seen_by_the_peer(entry) for entry in mobile]


def _seen_by_the_peer(entry: Entry) -> Entry:
    return Entry(
        entry.protocol,
        entry.remote,
        entry.remote_port,
        entry.local,
        entry.local_port,
        entry.new_remote,
        entry.new_local,
    )


def hand_over(mobile: Mover, peer: Mover, here: Sequence[Entry], there: Sequence[Entry]) -> None:
    """Move the connections, all of which can be moved."""
    one, two = mobile.next_transfer(), peer.next_transfer()
    mobile.send(Stop(one, tuple(here), hold_seconds=PATIENCE))
    ours, theirs = peer.stop(two, there, hold_seconds=PATIENCE), mobile.receive(Stopped)
    assert not theirs.refusals, theirs
    assert not ours.refusals, ours
    mobile.send(Rebuild(one, ours.numbers))
    there_done, here_done = peer.rebuild(two, dict(theirs.numbers)), mobile.receive(Rebuilt)
    assert not here_done.refusals, here_done
    assert not there_done.refusals, there_done
    mobile.send(Go(one))
    assert dict(peer.go(two).refusals) == {}
    assert dict(mobile.receive(Gone).refusals) == {}


def settle(mobile: Mover, peer: Mover, here: Entry, there: Entry) -> Place:
    """What the daemons do when they do not know where a connection is: find out, bring both ends to one place, unlock.

    A socket that is alone at the new addresses goes back, with the number of the one at the old ones.
    """
    places = mobile.where(here), peer.where(there)
    assert set(places) <= {Place.OLD, Place.NEW}, places
    if places[0] is not places[1]:
        moved, other = (mobile, here), (peer, there)
        if places[1] is Place.NEW:
            moved, other = other, moved
        one, two = moved[0].next_transfer(), other[0].next_transfer()
        returning = moved[0].stop(one, [moved[1].reversed], hold_seconds=PATIENCE)
        staying = other[0].stop(two, [other[1]], hold_seconds=PATIENCE)
        assert not returning.refusals, returning
        assert not staying.refusals, staying
        assert moved[0].rebuild(one, dict(staying.numbers)).done == (0,)
        assert not other[0].go(two, back=(0,)).refusals
        assert not moved[0].go(one).refusals
    mobile.send(Unlock((here,)))
    peer.send(Unlock((there,)))
    return places[0] if places[0] is places[1] else Place.OLD

"""Programs whose connections are moved: they know nothing of it. Each checks every octet that it gets.

    echo [ADDRESS]               a server that sends back what it gets, a thread for each connection
    client STYLE [COUNT [SERVER]]    connects, sends a sequence that is known, checks what comes back, until told to end

A client says "up PORT..." when it has begun, and "ok TOTAL" after the line "end" on its standard input; "total" asks
how much has come back so far. "accepted" asks a server how many connections it has.
"""

import asyncio
import itertools
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

SERVER = "10.0.0.2"
PORT = 7000
BLOCK = bytes(itertools.chain.from_iterable((number & 0xFF, number >> 8) for number in range(1 << 15)))
"""64 KiB in which every place can be told from its neighbours."""
PIECE = 1777
"""Octets written at once."""
AHEAD = 32 * PIECE
"""Octets that may be on their way."""


PACE = 0.0005
"""Seconds between pieces: the machine has other things to do."""


def part(start: int, length: int) -> bytes:
    start %= len(BLOCK)
    return (BLOCK + BLOCK)[start : start + length]


class Check:
    """What has been sent, and that what comes back is that."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0

    def next_piece(self) -> bytes:
        """Empty when enough is on its way."""
        if self.sent - self.received >= AHEAD:
            return b""
        time.sleep(PACE)
        return part(self.sent, PIECE)

    def got(self, data: bytes) -> None:
        if data != part(self.received, len(data)):
            raise AssertionError(f"wrong octets after {self.received}")
        self.received += len(data)


END = threading.Event()
CHECKS: list[Check] = []
ACCEPTED: list[None] = []
"""One for each connection that the server has accepted."""


def blocking(sock: socket.socket, check: Check) -> None:
    """Writes and waits for the answer, as most simple programs do."""
    while not END.is_set():
        piece = check.next_piece()
        sock.sendall(piece)
        check.sent += len(piece)
        while check.received < check.sent:
            check.got(received(sock))


def threads(sock: socket.socket, check: Check) -> None:
    """One thread writes, blocking, while another one reads."""

    def write() -> None:
        while not END.is_set():
            piece = check.next_piece()
            sock.sendall(piece)
            check.sent += len(piece)
            time.sleep(0 if piece else PACE)

        sock.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=write)
    writer.start()
    while data := sock.recv(1 << 16):
        check.got(data)
    writer.join()


def received(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 16)
    if not data:
        raise AssertionError("the connection ended")
    return data


def ready_loop(wait: Callable[[bool], tuple[bool, bool]], sock: socket.socket, check: Check) -> None:
    """Non-blocking; `wait` is given whether there is something to write, and tells whether to read and to write."""
    sock.setblocking(False)
    rest = b""
    while not END.is_set() or check.received < check.sent:
        if not rest and not END.is_set():
            rest = check.next_piece()
            check.sent += len(rest)
        readable, writable = wait(bool(rest))
        if writable:
            while rest:
                try:
                    rest = rest[sock.send(rest) :]
                except BlockingIOError:
                    break
        if readable:
            while True:
                try:
                    check.got(received(sock))
                except BlockingIOError:
                    break


def selecting(sock: socket.socket, check: Check) -> None:
    def wait(writing: bool) -> tuple[bool, bool]:
        readable, writable, _ = select.select([sock], [sock] if writing else [], [], 0.2)
        return bool(readable), bool(writable)

    ready_loop(wait, sock, check)


def polling(sock: socket.socket, check: Check) -> None:
    poll = select.poll()

    def wait(writing: bool) -> tuple[bool, bool]:
        poll.register(sock, select.POLLIN | (select.POLLOUT if writing else 0))
        events = dict(poll.poll(200)).get(sock.fileno(), 0)
        if events & ~(select.POLLIN | select.POLLOUT):
            raise AssertionError(f"poll says {events}")
        return bool(events & select.POLLIN), bool(events & select.POLLOUT)

    ready_loop(wait, sock, check)


def epoll_level(sock: socket.socket, check: Check) -> None:
    epoll_loop(sock, check, 0)


def epoll_edge(sock: socket.socket, check: Check) -> None:
    epoll_loop(sock, check, select.EPOLLET)


def epoll_loop(sock: socket.socket, check: Check, flags: int) -> None:
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN | select.EPOLLOUT | flags)
    can = {select.EPOLLIN: False, select.EPOLLOUT: False}

    def wait(writing: bool) -> tuple[bool, bool]:
        timeout = 0.0 if flags and writing else 0.2  # an edge is told once: try
        events = dict(epoll.poll(timeout)).get(sock.fileno(), 0)
        if events & ~(select.EPOLLIN | select.EPOLLOUT):
            raise AssertionError(f"epoll says {events}")
        for event in can:
            can[event] = bool(events & event)
        return can[select.EPOLLIN] or bool(flags), can[select.EPOLLOUT] or bool(flags)

    ready_loop(wait, sock, check)


def with_asyncio(sock: socket.socket, check: Check) -> None:
    async def run() -> None:
        reader, writer = await asyncio.open_connection(sock=sock)

        async def write() -> None:
            while not END.is_set():
                piece = check.next_piece()
                writer.write(piece)
                check.sent += len(piece)
                await writer.drain()
                await asyncio.sleep(0 if piece else 0.001)

        writing = asyncio.create_task(write())
        while not writing.done() or check.received < check.sent:
            try:
                async with asyncio.timeout(0.2):
                    data = await reader.read(1 << 16)
            except TimeoutError:
                continue
            if not data:
                raise AssertionError("the connection ended")
            check.got(data)
        await writing

    asyncio.run(run())


def forked(sock: socket.socket, check: Check) -> None:
    """A child has the socket too, and does the writing."""
    told, tell = os.pipe()
    if os.fork() == 0:
        os.close(tell)
        sent = 0
        while not select.select([told], [], [], 0.002)[0]:
            piece = part(sent, PIECE)
            sock.sendall(piece)
            sent += len(piece)
        os._exit(0)
    os.close(told)
    while not END.is_set():
        check.got(received(sock))
    os.close(tell)
    os.wait()
    sock.shutdown(socket.SHUT_WR)
    while data := sock.recv(1 << 16):
        check.got(data)


def idle(sock: socket.socket, check: Check) -> None:
    """Waits in recv; nothing is on its way before the end."""

    def write() -> None:
        END.wait()
        sock.sendall(part(0, PIECE))

    threading.Thread(target=write).start()
    while check.received < PIECE:
        check.got(received(sock))


def resting(sock: socket.socket, check: Check) -> None:
    """Does not touch its connection before the end."""
    END.wait()
    sock.sendall(part(0, PIECE))
    while check.received < PIECE:
        check.got(received(sock))


STYLES: dict[str, Callable[[socket.socket, Check], None]] = {
    "blocking": blocking,
    "threads": threads,
    "select": selecting,
    "poll": polling,
    "epoll-level": epoll_level,
    "epoll-edge": epoll_edge,
    "asyncio": with_asyncio,
    "forked": forked,
    "idle": idle,
    "resting": resting,
}


def serve(address: str) -> None:
    def echo(sock: socket.socket) -> None:
        with sock:
            while data := sock.recv(1 << 16):
                sock.sendall(data)

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    both = address == "::"
    with socket.create_server(
        (address, PORT), family=family, backlog=1000, reuse_port=True, dualstack_ipv6=both
    ) as listener:
        print("up", flush=True)
        while True:
            threading.Thread(target=echo, args=[listener.accept()[0]], daemon=True).start()
            ACCEPTED.append(None)


def client(style: str, count: int, server: str) -> None:
    socks = [socket.create_connection((server, PORT)) for _ in range(count)]
    CHECKS.extend(Check() for _ in socks)
    print("up", *(sock.getsockname()[1] for sock in socks), flush=True)
    if count == 1:
        STYLES[style](socks[0], CHECKS[0])
    else:
        # Many: each sends a piece and waits for it in turn.
        for sock, check in itertools.cycle(zip(socks, CHECKS, strict=True)):
            if END.is_set():
                break
            piece = part(check.sent, 100)
            sock.sendall(piece)
            check.sent += len(piece)
            while check.received < check.sent:
                check.got(received(sock))
    print("ok", sum(check.received for check in CHECKS), flush=True)


def listen_to_standard_input() -> None:
    for line in sys.stdin:
        if line == "total\n":
            print(sum(check.received for check in CHECKS), flush=True)
        elif line == "accepted\n":
            print(len(ACCEPTED), flush=True)
        elif line == "end\n":
            END.set()
    if not END.is_set():  # the test is gone
        os._exit(1)


def main(arguments: Iterator[str]) -> None:
    threading.Thread(target=listen_to_standard_input, daemon=True).start()
    if next(arguments) == "echo":
        serve(next(arguments, ""))
    else:
        client(next(arguments), int(next(arguments, "1")), next(arguments, SERVER))


if __name__ == "__main__":
    main(iter(sys.argv[1:]))

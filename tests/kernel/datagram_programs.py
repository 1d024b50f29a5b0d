"""A program that sends and receives numbered datagrams; it knows nothing of being moved.

    ADDRESS PORT [PEER PORT]     bound to the address ("" for all) and port; connected to the peer, if there is one

It says "up PORT". What it is told by a line on its standard input, and how it answers:

    to ADDRESS PORT TEXT         sends one datagram; "sent"
    send TEXT                    the same to the peer
    read                         waits for a datagram; its text
    empty                        "yes" if there is none
    stream                       sends numbers, one a millisecond, and takes those that come, until told otherwise; "ok"
    quiet                        sends no more; how many it has sent
    missing COUNT                of so many: which have not come, and how many came again; like "[3, 4] 0"

Not connected, it streams to whoever it has heard last.
"""

import select
import socket
import sys
import time
from collections import Counter

PACE = 0.001


class Program:
    def __init__(self, address: str, port: str, *peer: str) -> None:
        family = socket.AF_INET6 if ":" in "".join((address, *peer)) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.bind((address, int(port)))
        self.peer = (peer[0], int(peer[1])) if peer else None
        self.connected = bool(peer)
        if peer:
            self.sock.connect((peer[0], int(peer[1])))
        self.sent = 0
        self.streaming = False
        self.came: Counter[int] = Counter()

    def run(self) -> None:
        say("up", self.sock.getsockname()[1])
        while True:
            waited = [sys.stdin, self.sock] if self.streaming or self.came else [sys.stdin]
            ready, _, _ = select.select(waited, [], [], PACE if self.streaming else None)
            if sys.stdin in ready:
                command, *words = sys.stdin.readline().split() or ("over",)
                if command == "over":
                    return
                getattr(self, f"do_{command}")(*words)
            if self.sock in ready:
                self.take()
            if self.streaming and self.peer is not None:
                self.post(b"%d" % self.sent)
                self.sent += 1

    def post(self, data: bytes) -> None:
        if self.connected:
            self.sock.send(data)
        elif self.peer is not None:
            self.sock.sendto(data, self.peer)

    def take(self) -> None:
        while True:
            try:
                data, source = self.sock.recvfrom(100, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self.came[int(data)] += 1
            if not self.connected:
                self.peer = source[:2]

    def do_to(self, address: str, port: str, text: str) -> None:
        self.sock.sendto(text.encode(), (address, int(port)))
        say("sent")

    def do_send(self, text: str) -> None:
        self.sock.send(text.encode())
        say("sent")

    def do_read(self) -> None:
        say(self.sock.recv(1 << 16).decode()[:100])

    def do_empty(self) -> None:
        say("no" if select.select([self.sock], [], [], 0)[0] else "yes")

    def do_stream(self) -> None:
        self.streaming = True
        say("ok")

    def do_quiet(self) -> None:
        self.streaming = False
        say(self.sent)

    def do_missing(self, count: str) -> None:
        time.sleep(0.2)  # what is on its way arrives by itself
        self.take()
        doubled = sum(self.came.values()) - len(self.came)
        say([number for number in range(int(count)) if number not in self.came], doubled)


def say(*words: object) -> None:
    print(*words, flush=True)


if __name__ == "__main__":
    Program(*sys.argv[1:]).run()

"""TCP bulk transfer both ways at once, every byte compared on receipt.

    tcp_bulk.py listen FAMILY RATE SEED          says its port, serves one connection
    tcp_bulk.py connect ADDRESS PORT RATE SEED

RATE: bytes per second each way, 0 for as fast as it goes. The connecting side stops on `stop`, with all bytes
delivered: it closes its direction, the listening side then closes its own. Both say what they moved.
"""

import hashlib
import select
import socket
import sys
import time

from common import BLOCK, Commands, Pattern, Silence, family_of, listener, say

CHUNK = 16384
TICK = 0.02


class Stream:
    def __init__(self, sock, rate, send_seed, receive_seed):
        self.sock = sock
        self.rate = rate
        self.sending, self.receiving = Pattern(send_seed), Pattern(receive_seed)
        self.sent = self.received = 0
        self.sent_digest, self.received_digest = hashlib.sha256(), hashlib.sha256()
        self.silence = Silence()
        self.errors = []
        self.stop = self.closed = self.peer_closed = False
        self.began = time.monotonic()

    def allowance(self):
        """Bytes to send now. Below a tick's worth it is none: a few bytes at a time would keep the CPU busy."""
        if not self.rate:
            return CHUNK
        due = int((time.monotonic() - self.began) * self.rate) - self.sent
        return min(CHUNK, due) if due >= min(CHUNK, self.rate * TICK) else 0

    def send(self):
        amount = self.allowance()
        if amount <= 0:
            return
        block = self.sending.at(self.sent, amount)
        count = self.sock.send(block)
        self.sent_digest.update(block[:count])
        self.sent += count

    def receive(self):
        data = self.sock.recv(BLOCK)
        if not data:
            self.peer_closed = True
            return
        self.silence.note(time.monotonic())
        self.received_digest.update(data)
        view = memoryview(data)
        while view:
            expected = self.receiving.at(self.received, len(view))
            if view[: len(expected)] != expected:
                raise ValueError(f"wrong bytes at position {self.received}")
            self.received += len(expected)
            view = view[len(expected) :]

    def run(self, commands):
        self.sock.setblocking(False)
        while not (self.closed and self.peer_closed):
            paused = self.closed or self.allowance() <= 0
            inputs = [] if self.peer_closed else [self.sock]
            if commands is not None:
                inputs.append(sys.stdin)
            ready, writable, _ = select.select(inputs, [] if paused else [self.sock], [], TICK)
            if sys.stdin in ready and "stop" in commands.read():
                self.stop, commands = True, None
            try:
                if self.sock in ready:
                    self.receive()
                if writable:
                    self.send()
            except BlockingIOError:
                pass
            if (self.stop or self.peer_closed) and not self.closed:
                self.sock.shutdown(socket.SHUT_WR)
                self.closed = True

    def report(self):
        say(
            sent=self.sent,
            received=self.received,
            sent_digest=self.sent_digest.hexdigest(),
            received_digest=self.received_digest.hexdigest(),
            seconds=time.monotonic() - self.began,
            errors=self.errors,
            **self.silence.record(),
        )


def main():
    mode, *rest = sys.argv[1:]
    if mode == "listen":
        family, rate, seed = rest[0], int(rest[1]), int(rest[2])
        server = listener(family, 0)
        say(port=server.getsockname()[1])
        sock, _ = server.accept()
        stream, commands = Stream(sock, rate, seed + 1, seed), None
    else:
        address, port, rate, seed = rest[0], int(rest[1]), int(rest[2]), int(rest[3])
        sock = socket.socket(family_of(address))
        sock.connect((address, port))
        say(local=sock.getsockname()[0])
        stream, commands = Stream(sock, rate, seed, seed + 1), Commands()
    try:
        stream.run(commands)
    except (OSError, ValueError) as error:
        stream.errors.append(f"{type(error).__name__}: {error}")
    stream.report()


main()

"""What the traffic programs share. Nothing in this directory knows of swanroam: these are the unmodified programs."""

import json
import random
import select
import signal
import socket
import sys
import time

BLOCK = 65536


def family_of(address):
    """AF_INET or AF_INET6 of an address in text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listener(family, port):
    """A listening TCP socket on any address; port 0 takes a free one."""
    sock = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", port))
    sock.listen(16)
    return sock


def say(**record):
    """One line of JSON to whoever started the program."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


class Pattern:
    """Bytes that depend on their position in the stream and on a seed, so that loss, repetition and exchange show."""

    def __init__(self, seed):
        self._seed = seed
        self._number = -1
        self._block = b""

    def at(self, position, length):
        """Up to `length` bytes from `position`, not beyond a block's end; at least one."""
        number, offset = divmod(position, BLOCK)
        if number != self._number:
            self._number = number
            self._block = random.Random(self._seed << 64 | number).randbytes(BLOCK)
        return memoryview(self._block)[offset : offset + length]


class Commands:
    """Lines on standard input. `stop` and the end of the input both ask for the end."""

    def __init__(self):
        self._rest = b""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def read(self):
        """Commands that have come in; call when standard input is readable."""
        data = sys.stdin.buffer.raw.read(4096)
        if not data:
            return ["stop"]
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode() for line in lines]


def readable(sock, timeout):
    """Whether there is something to read within `timeout` seconds."""
    return bool(select.select([sock], [], [], timeout)[0])


class Silence:
    """The longest time without anything received, and when it began."""

    def __init__(self):
        self.last = time.monotonic()
        self.longest = 0.0
        self.began = self.last

    def note(self, now):
        if now - self.last > self.longest:
            self.longest, self.began = now - self.last, self.last
        self.last = now

    def record(self):
        self.note(time.monotonic())
        return {"longest_silence": self.longest, "silence_began": self.began}

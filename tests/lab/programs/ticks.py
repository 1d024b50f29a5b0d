"""A short message every few milliseconds both ways over TCP; says how long nothing was heard.

    ticks.py listen FAMILY PERIOD                        says its port; the newest connection is the one that counts
    ticks.py connect ADDRESS PORT PERIOD PATIENCE

PERIOD: seconds between messages. PATIENCE: 0 for a program that never reconnects. Otherwise the seconds of silence, and
of a connection attempt, after which the client gives the connection up and opens a new one; an error of the connection
makes it do so at once, and an attempt that fails at once is repeated after 10 ms.
Commands to both: `mark` says the longest silence so far and forgets it, `stop` says the same and ends.
"""

import contextlib
import errno
import select
import socket
import sys
import time

from common import Commands, Silence, family_of, listener, say

MESSAGE = b"tick" * 2
RETRY = 0.01


class Ticker:
    """One end: sends when a message is due, notes when one comes."""

    def __init__(self, period):
        self.period = period
        self.silence = Silence()
        self.sock = None
        self.due = self.silence.last
        self.reconnects = 0
        self.received = 0
        self.commands = Commands()

    def use(self, sock):
        """From now on this connection is the one."""
        self.close()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock

    def close(self):
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def send(self):
        """One message, when it is due. What was due earlier is not caught up with. Raises OSError."""
        now = time.monotonic()
        if now >= self.due:
            self.due = max(self.due + self.period, now)
            with contextlib.suppress(BlockingIOError):  # nothing drains: what is measured is the silence
                self.sock.send(MESSAGE)

    def receive(self):
        """What has come. Raises OSError, also when the other end has closed."""
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "closed by the other end")
        self.received += len(data)
        self.silence.note(time.monotonic())

    def obey(self):
        """Commands from standard input; False when the end was asked for."""
        asked = self.commands.read()
        if "mark" in asked or "stop" in asked:
            say(**self.silence.record(), reconnects=self.reconnects, received=self.received)
            now, self.silence = time.monotonic(), Silence()
            self.silence.last = now
        return "stop" not in asked

    def wait(self, inputs, outputs=()):
        timeout = max(0.0, self.due - time.monotonic()) if self.sock is not None else self.period
        return select.select([sys.stdin, *inputs], outputs, [], timeout)[:2]


def serve(family, period):
    ticker, server = Ticker(period), listener(family, 0)
    say(port=server.getsockname()[1])
    while True:
        ready, _ = ticker.wait([server, *([ticker.sock] if ticker.sock else [])])
        if sys.stdin in ready and not ticker.obey():
            return
        if server in ready:
            ticker.use(server.accept()[0])
        elif ticker.sock is not None:
            try:
                if ticker.sock in ready:
                    ticker.receive()
                ticker.send()
            except BlockingIOError:
                pass
            except OSError:
                ticker.close()


class Client(Ticker):
    """The end that opens connections, again and again when it is impatient."""

    def __init__(self, address, port, period, patience):
        super().__init__(period)
        self.target, self.patience = (address, port), patience
        self.connecting = False
        self.attempt_began = 0.0

    def attempt(self):
        """Begin to connect."""
        self.use(socket.socket(family_of(self.target[0])))
        self.attempt_began = time.monotonic()
        failed = self.sock.connect_ex(self.target)
        self.connecting = failed == errno.EINPROGRESS
        if failed and not self.connecting:
            self.give_up()

    def give_up(self):
        self.close()
        self.connecting = False

    def hopeless(self):
        heard = max(self.silence.last, self.attempt_began)
        return bool(self.patience) and time.monotonic() - heard >= self.patience

    def step(self, ready, writable):
        """Raises OSError when the connection is broken."""
        if self.connecting:
            if self.sock in writable:
                failed = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if failed:
                    raise OSError(failed, "connect")
                self.connecting = False
            return
        try:
            if self.sock in ready:
                self.receive()
        except BlockingIOError:
            pass
        self.send()

    def run(self):
        again = 0.0
        while True:
            if self.sock is None and time.monotonic() >= again:
                self.reconnects += 1
                again = time.monotonic() + RETRY
                self.attempt()
            busy = [self.sock] if self.sock else []
            ready, writable = self.wait([] if self.connecting else busy, busy if self.connecting else ())
            if sys.stdin in ready and not self.obey():
                return
            if self.sock is None:
                continue
            try:
                self.step(ready, writable)
            except OSError as error:
                if not self.patience:
                    say(error=f"{type(error).__name__}: {error}")
                    return
                self.give_up()
            if self.sock is not None and self.hopeless():
                self.give_up()


def main():
    mode, *rest = sys.argv[1:]
    if mode == "listen":
        serve(rest[0], float(rest[1]))
        return
    client = Client(rest[0], int(rest[1]), float(rest[2]), float(rest[3]))
    sock = socket.socket(family_of(rest[0]))
    sock.connect(client.target)
    local, port = sock.getsockname()[:2]
    say(local=local, port=port)
    client.use(sock)
    client.run()


main()

"""Many TCP connections of one client program to one server.

    many.py listen FAMILY                             says its port; sends back what comes
    many.py connect ADDRESS PORT COUNT PATIENCE       opens COUNT connections

Command `use`: a byte goes out on every connection, and the answer is said when all have come back, or after 60 s.
PATIENCE 0: the client waits. Otherwise a connection that fails, or is silent for so many seconds, is closed, opened
again and used again. `stop` ends.
"""

import contextlib
import errno
import resource
import select
import socket
import sys
import time

from common import Commands, family_of, listener, say

LIMIT = 60.0
AT_ONCE = 256
"""Connections being opened at the same time: fewer than a listener's queue holds."""
RETRY = 0.01


def raise_limit():
    """As many descriptors as root may have."""
    wanted = 1 << 16
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))


def serve(family):
    raise_limit()
    server = listener(family, 0)
    server.listen(4096)
    server.setblocking(False)
    say(port=server.getsockname()[1])
    poll, connections = select.epoll(), {}
    poll.register(server, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if number == server.fileno():
                try:
                    sock, _ = server.accept()
                except OSError:
                    continue
                connections[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
                continue
            sock = connections[number]
            try:
                data = sock.recv(4096)
                sock.sendall(data)
            except OSError:
                data = b""
            if not data:
                del connections[number]
                sock.close()


class Many:
    """The client's connections. Each is idle, being opened, or waiting for its answer."""

    def __init__(self, target, patience):
        self.target, self.patience = target, patience
        self.poll = select.epoll()
        self.open, self.opening, self.waiting = {}, {}, {}
        self.backlog = 0
        self.reopened = 0

    def attempt(self):
        sock = socket.socket(family_of(self.target[0]))
        sock.setblocking(False)
        failed = sock.connect_ex(self.target)
        if failed not in (0, errno.EINPROGRESS):
            sock.close()
            return False
        self.backlog -= 1
        self.opening[sock.fileno()] = (sock, time.monotonic())
        self.poll.register(sock, select.EPOLLIN | select.EPOLLOUT)
        return True

    def opened(self, number, use):
        sock, _ = self.opening.pop(number)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            sock.close()
            self.backlog += 1
            return
        self.poll.modify(sock, select.EPOLLIN)
        self.open[number] = sock
        if use:
            self.send(number)

    def send(self, number):
        try:
            self.open[number].send(b".")
            self.waiting[number] = time.monotonic()
        except OSError:
            self.drop(number)

    def drop(self, number):
        """This connection is broken. A patient client has lost it, an impatient one opens another."""
        self.waiting.pop(number, None)
        self.open.pop(number).close()
        if self.patience:
            self.backlog += 1
            self.reopened += 1

    def answered(self, number):
        try:
            data = self.open[number].recv(4096)
        except OSError:
            data = b""
        if not data:
            self.drop(number)
        else:
            self.waiting.pop(number, None)

    def expire(self):
        """Give up what has been silent for too long."""
        before = time.monotonic() - self.patience
        for number in [number for number, began in self.waiting.items() if began < before]:
            self.drop(number)
        for number in [number for number, (_, began) in self.opening.items() if began < before]:
            self.opening.pop(number)[0].close()
            self.backlog += 1

    def run(self, use):
        """Until all is open, and with `use` all has answered. Raises TimeoutError."""
        deadline, looked = time.monotonic() + LIMIT, 0.0
        while self.backlog or self.opening or self.waiting:
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError
            while self.backlog and len(self.opening) < AT_ONCE and self.attempt():
                pass
            for number, _ in self.poll.poll(RETRY):
                if number in self.opening:
                    self.opened(number, use)
                elif number in self.open:
                    self.answered(number)
            if self.patience and now - looked > 0.1:
                looked = now
                self.expire()

    def use(self):
        """Use every connection once, and say what came of it."""
        began, wanted = time.monotonic(), len(self.open)
        for number in list(self.open):
            self.send(number)
        with contextlib.suppress(TimeoutError):  # what has not answered by now is lost
            self.run(use=True)
        lost = wanted - len(self.open) + len(self.waiting)
        say(wanted=wanted, lost=lost, reopened=self.reopened, began=began, ended=time.monotonic())


def connect(target, count, patience):
    raise_limit()
    many, commands, began = Many(target, patience), Commands(), time.monotonic()
    many.backlog = count
    with contextlib.suppress(TimeoutError):  # the answer tells how many are open
        many.run(use=False)
    say(open=len(many.open), seconds=time.monotonic() - began)
    while True:
        select.select([sys.stdin], [], [])
        for asked in commands.read():
            if asked == "use":
                many.use()
            elif asked == "stop":
                return


def main():
    mode, *rest = sys.argv[1:]
    if mode == "listen":
        serve(rest[0])
    else:
        connect((rest[0], int(rest[1])), int(rest[2]), float(rest[3]))


main()

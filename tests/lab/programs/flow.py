"""One TCP connection that one end fills as fast as it goes, while it is told to.

    flow.py listen FAMILY DIRECTION                 says its port, serves one connection
    flow.py connect ADDRESS PORT DIRECTION

DIRECTION: `up`, the connecting end sends, or `down`. Commands to both: `go`, `pause` (at first it does), `count` says
the bytes received so far and the time (CLOCK_MONOTONIC), `stop` ends.
"""

import select
import socket
import sys
import time

from common import BLOCK, Commands, family_of, listener, say


def run(sock, sends):
    commands, received, block, paused = Commands(), 0, bytes(BLOCK), True
    room = bytearray(4 * BLOCK)
    sock.setblocking(False)
    while True:
        ready, writable, _ = select.select([sock, sys.stdin], [sock] if sends and not paused else [], [])
        if sys.stdin in ready:
            asked = commands.read()
            for command in asked:
                if command in ("go", "pause"):
                    paused = command == "pause"
            if "count" in asked:
                say(received=received, at=time.monotonic())
            if "stop" in asked:
                return
        try:
            if sock in ready:
                count = sock.recv_into(room)
                if not count:
                    return
                received += count
            if writable:
                sock.send(block)
        except BlockingIOError:
            pass


def main():
    mode, *rest = sys.argv[1:]
    if mode == "listen":
        server = listener(rest[0], 0)
        say(port=server.getsockname()[1])
        run(server.accept()[0], rest[1] == "down")
    else:
        sock = socket.socket(family_of(rest[0]))
        sock.connect((rest[0], int(rest[1])))
        say(local=sock.getsockname()[0])
        run(sock, rest[2] == "up")


main()

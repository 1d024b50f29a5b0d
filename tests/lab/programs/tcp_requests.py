"""Request and response over one TCP connection: periodically, or only when told.

    tcp_requests.py listen FAMILY PORT            says its port (0: any that is free), serves connections
    tcp_requests.py connect ADDRESS PORT INTERVAL SIZE [SOURCE SOURCE_PORT]

INTERVAL: seconds between requests, 0 for none by itself. SOURCE and its port: what to bind to. Commands: `use` makes
one request (the answer is said at once), `stop` ends. A request is a length and so many bytes; the response is the
same bytes in reverse order.
"""

import os
import select
import socket
import struct
import sys
import time

from common import Commands, Silence, family_of, listener, say


def read_exactly(sock, length):
    parts = []
    while length:
        data = sock.recv(length)
        if not data:
            raise ConnectionError("the peer closed the connection")
        parts.append(data)
        length -= len(data)
    return b"".join(parts)


def serve(server):
    buffers = {}
    while True:
        for sock in select.select([server, *buffers], [], [])[0]:
            if sock is server:
                connection, _ = server.accept()
                buffers[connection] = b""
                continue
            try:
                data = sock.recv(65536)
                buffers[sock] += data
                while len(buffers[sock]) >= 4:
                    (length,) = struct.unpack_from("!I", buffers[sock])
                    if len(buffers[sock]) < 4 + length:
                        break
                    request, buffers[sock] = buffers[sock][4 : 4 + length], buffers[sock][4 + length :]
                    sock.sendall(request[::-1])
            except OSError as error:
                say(error=f"{type(error).__name__}: {error}")
                data = b""
            if not data:
                del buffers[sock]
                sock.close()


def request(sock, size):
    """One request; returns the seconds until its whole response."""
    content = os.urandom(size)
    began = time.monotonic()
    sock.sendall(struct.pack("!I", size) + content)
    if read_exactly(sock, size) != content[::-1]:
        raise ValueError("the response has wrong bytes")
    return time.monotonic() - began


def connect(address, port, interval, size, source):
    sock = socket.socket(family_of(address))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if source:
        sock.bind(source)
    sock.connect((address, port))
    say(local=sock.getsockname()[0])
    commands, silence, errors, times = Commands(), Silence(), [], []
    due = time.monotonic()
    try:
        while True:
            wait = max(0.0, due - time.monotonic()) if interval else None
            asked = commands.read() if select.select([sys.stdin], [], [], wait)[0] else []
            if "stop" in asked:
                break
            if "use" in asked or not asked:
                times.append(request(sock, size))
                silence.note(time.monotonic())
                if asked:
                    say(response_seconds=times[-1])
                due = max(due + interval, time.monotonic())
    except (OSError, ValueError) as error:
        errors.append(f"{type(error).__name__}: {error}")
    say(
        requests=len(times),
        longest_response=max(times, default=0.0),
        errors=errors,
        bytes=len(times) * size,
        **silence.record(),
    )


def main():
    mode, *rest = sys.argv[1:]
    if mode == "listen":
        server = listener(rest[0], int(rest[1]))
        say(port=server.getsockname()[1])
        serve(server)
    else:
        source = (rest[4], int(rest[5])) if len(rest) > 4 else None
        connect(rest[0], int(rest[1]), float(rest[2]), int(rest[3]), source)


main()

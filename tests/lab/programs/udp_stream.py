"""UDP at a given rate both ways, with sequence numbers and times.

    udp_stream.py listen FAMILY RATE SIZE FILE           says its port; sends to whoever it heard last
    udp_stream.py connect ADDRESS PORT RATE SIZE FILE    a connected socket: its source address is chosen once
    udp_stream.py send ADDRESS PORT RATE SIZE FILE       an unconnected one: the kernel chooses for every packet

RATE: packets per second. Due packets leave in batches every few milliseconds: a slow machine wakes up no more often.
What is due when the program did not get the CPU for long is not caught up with: a burst of thousands of packets would
overrun the queues between the hosts, and be a loss of its own.
On `count` it says how many packets have come; on `quiet` it sends no more but still receives; on `stop` it writes
FILE: per packet sent its time (negative: the kernel refused it), per packet received sequence number and time. Times
are of CLOCK_MONOTONIC, which all hosts share.
"""

import array
import select
import socket
import struct
import sys
import time
from pathlib import Path

from common import Commands, family_of, say

TICK = 0.01
BURST = 100  # packets
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
HEADER = struct.Struct("!Q")


class Stream:
    def __init__(self, sock, rate, size, peer):
        self.sock, self.rate, self.peer = sock, rate, peer
        self.padding = bytes(max(0, size - HEADER.size))
        self.sent = array.array("d")
        self.received = array.array("Q")
        self.received_at = array.array("d")
        self.errors = {}
        self.began = None

    def send_due(self):
        now = time.monotonic()
        if self.began is None:
            self.began = now
        due = int((now - self.began) * self.rate) + 1
        if due - len(self.sent) > BURST:
            due = len(self.sent) + BURST
            self.began = now - due / self.rate
        while len(self.sent) < due:
            packet = HEADER.pack(len(self.sent)) + self.padding
            now = time.monotonic()
            try:
                if self.peer is None:
                    self.sock.send(packet)
                else:
                    self.sock.sendto(packet, self.peer)
            except BlockingIOError:  # the queue is full: it is sent a tick later, as any program would do
                return
            except OSError as error:
                self.errors[error.strerror] = self.errors.get(error.strerror, 0) + 1
                now = -now
            self.sent.append(now)

    def drain(self):
        while True:
            try:
                data, source = self.sock.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError as error:  # what an ICMP message said about an earlier packet
                name = f"on receipt: {error.strerror}"
                self.errors[name] = self.errors.get(name, 0) + 1
                continue
            self.received_at.append(time.monotonic())
            self.received.append(HEADER.unpack_from(data)[0])
            self.heard(source)

    def heard(self, source):
        pass

    def run(self, commands):
        self.sock.setblocking(False)
        quiet = False
        following = time.monotonic()
        while True:
            wait = max(0.0, following - time.monotonic())
            ready = select.select([self.sock, sys.stdin], [], [], wait)[0]
            if sys.stdin in ready:
                asked = commands.read()
                quiet = quiet or "quiet" in asked
                if "quiet" in asked:
                    say(quiet=True)
                if "count" in asked:
                    say(received=len(self.received))
                if "stop" in asked:
                    return
            self.drain()
            if time.monotonic() >= following:
                following = max(following + TICK, time.monotonic())
                if not quiet and self.ready():
                    self.send_due()

    def ready(self):
        return True


class Answering(Stream):
    """Sends once it has heard somebody, always to where the last packet came from."""

    def heard(self, source):
        self.peer = source

    def ready(self):
        return self.peer is not None


def main():
    mode, *rest = sys.argv[1:]
    if mode == "listen":
        family, rate, size, path = rest[0], float(rest[1]), int(rest[2]), rest[3]
        sock = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", 0))
        say(port=sock.getsockname()[1])
        stream = Answering(sock, rate, size, None)
    else:
        address, port, rate, size, path = rest[0], int(rest[1]), float(rest[2]), int(rest[3]), rest[4]
        sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
        if mode == "connect":
            sock.connect((address, port))
        say(local=sock.getsockname()[0])
        stream = Stream(sock, rate, size, None if mode == "connect" else (address, port))
    # Packets that arrive while this program does not get the CPU are not lost on the way: root may exceed rmem_max.
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 25)
    stream.run(Commands())
    with Path(path).open("wb") as file:
        for values in (stream.sent, stream.received, stream.received_at):
            file.write(struct.pack("=Q", len(values)))
            values.tofile(file)
    say(errors=stream.errors)


main()

"""What is done to the sockets themselves, in a process of its own beside the keeper.

The keeper holds the owners still, a descriptor of every socket and the locks; the worker is its fork, has the same
descriptors, and may die at any moment. What it has done it reports, and before it takes a socket apart it hands over
the image from which that can be built. `apply` makes of each report what it means for a socket, on both sides of the
channel: so the keeper knows at any time what it would have to finish.

When the keeper is gone the owners are held for a moment longer by the `tracer`. The worker then takes no further socket
apart, lets go those that it has built, and ends, whereupon the owners run.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import traceback
from collections.abc import Sequence

from swanroam.transport import moving
from swanroam.transport.image import Image, Refused
from swanroam.transport.jobs import (
    Broken,
    Build,
    Built,
    Ended,
    Freed,
    Halt,
    Held,
    Job,
    Kept,
    LetGo,
    Moving,
    Number,
    Read,
    Report,
    Reporter,
    Stage,
    Taken,
    apply,
    pack,
    unpack_from,
)
from swanroam.transport.orders import Place, Reason, Refusal


def read(slot: int, held: Held, report: Reporter) -> None:
    """Look at the socket again now that its owner is stopped, and tell its number; UDP has none."""
    try:
        moving.inspect(held.entry, held.sock, held.receive_queue)
        number = moving.number(held.entry, held.sock)
    except (Refused, OSError) as error:
        leave(slot, held, refusal_for(error), report)
    else:
        report(Number(slot, number))


def build(slot: int, held: Held, place: Place, peer_number: int, report: Reporter) -> None:
    """Take the socket to a place, or leave it as it was."""
    if held.picture is not None:
        build_again(slot, held, place, report)
        return
    try:
        picture = moving.take(held.entry, held.sock, held.keys)
        if isinstance(picture, Image):
            picture.skipped(peer_number)
    except (Refused, OSError) as error:
        leave(slot, held, refusal_for(error), report)
        return
    if isinstance(picture, Image) and picture.receive_next != held.number:
        changed = f"{held.entry}: it expected {held.number}, now {picture.receive_next}"
        leave(slot, held, Refusal(Reason.CHANGED, changed), report)
        return
    report(Taken(slot, picture, peer_number, place))
    finish(slot, held, report)


def build_again(slot: int, held: Held, place: Place, report: Reporter) -> None:
    """Take a socket back that was built already, unless it has received something where it is."""
    if isinstance(held.picture, Image) and held.stage is Stage.BUILT:
        try:
            number = moving.number(held.entry, held.sock)
        except OSError as error:
            moving.clear(held.entry, held.sock, held.reuse_address)
            report(Built(slot, held.place, Refusal(Reason.FAILED, str(error))))
            return
        if number != held.picture.receive_next:
            report(
                Built(slot, held.place, Refusal(Reason.CHANGED, f"{held.entry}: the peer is at the other addresses"))
            )
            return
    report(Moving(slot, place))
    finish(slot, held, report)


def leave(slot: int, held: Held, refusal: Refusal, report: Reporter) -> None:
    """Not this one: as it was before."""
    moving.clear(held.entry, held.sock, held.reuse_address)
    report(Kept(slot, refusal))


def finish(slot: int, held: Held, report: Reporter) -> None:
    """Build a socket that may be in pieces where it is to stand, or else where it stood."""
    assert held.picture is not None
    refusal = None
    for place in (held.place, _other(held.place)):
        try:
            moving.build(held.entry, held.sock, held.picture, place, held.peer_number)
        except (Refused, OSError) as error:
            refusal = refusal or refusal_for(error)
            continue
        report(Built(slot, place, refusal))
        return
    assert refusal is not None
    moving.abandon(held.entry, held.sock, held.picture, held.reuse_address)
    report(Broken(slot, Refusal(Reason.LOST, refusal.detail)))


def let_go(slot: int, held: Held, report: Reporter) -> None:
    """Give the socket back to its program. One that was not taken apart needs nothing."""
    if held.stage is Stage.BUILT:
        assert held.picture is not None
        try:
            moving.let_go(held.sock, held.picture)
        except OSError as error:
            # It has ended, or the kernel's own window probe sets it going (tcp_probe_timer).
            moving.clear(held.entry, held.sock, held.reuse_address)
            report(Freed(slot, Refusal(Reason.FAILED, str(error))))
            return
    report(Freed(slot))


def refusal_for(error: Refused | OSError) -> Refusal:
    return moving.refusal_for(error) if isinstance(error, Refused) else Refusal(Reason.FAILED, str(error))


def _other(place: Place) -> Place:
    return Place.OLD if place is Place.NEW else Place.NEW


class KeeperGone(Exception):  # noqa: N818 - that it is gone is what happened
    """The other end of the channel is closed."""


class Worker:
    """The loop of the forked process."""

    def __init__(self, channel: socket.socket, sockets: Sequence[Held]) -> None:
        self._channel = channel
        self._sockets = sockets
        self._received = bytearray()
        self._unsent = bytearray()
        self._waiting = select.poll()
        self._waiting.register(channel, select.POLLIN)

    def run(self) -> None:
        """Do jobs until the keeper closes the channel or ends."""
        try:
            while True:
                job = self._receive()
                if not isinstance(job, Halt):
                    self._do(job)
                    self._send(Ended())
        except KeeperGone:
            self._give_back()

    def _do(self, job: Job) -> None:
        peer_numbers = job.peer_numbers if isinstance(job, Build) else (0,) * len(job.slots)
        for slot, peer_number in zip(job.slots, peer_numbers, strict=True):
            if self._waiting.poll(0):  # Halt, or the end of the keeper: either way no further socket
                return
            held = self._sockets[slot]
            match job:
                case Read():
                    read(slot, held, self._report)
                case Build(place=place):
                    build(slot, held, place, peer_number, self._report)
                case LetGo():
                    let_go(slot, held, self._report)

    def _report(self, report: Report) -> None:
        apply(self._sockets[report.slot], report)
        try:
            self._send(report)
        except KeeperGone:
            # The socket in hand must be finished all the same. If it is not in pieces yet, it is not to be.
            if isinstance(report, Taken):
                held = self._sockets[report.slot]
                moving.clear(held.entry, held.sock, held.reuse_address)
                held.stage = Stage.UNTOUCHED
                raise

    def _give_back(self) -> None:
        for slot, held in enumerate(self._sockets):
            if held.stage is Stage.BUILT:
                let_go(slot, held, lambda _: None)

    def _receive(self) -> Job | Halt:
        while (message := unpack_from(self._received)) is None:
            try:
                part = self._channel.recv(1 << 16)
            except ConnectionError as error:
                raise KeeperGone from error
            if not part:
                raise KeeperGone
            self._received += part
        assert isinstance(message, Read | Build | LetGo | Halt)
        return message

    def _send(self, message: Report | Ended) -> None:
        """At once what the keeper must know before anything else happens; the rest goes with the next such message.

        What it has not heard of it will have done again, which does no harm.
        """
        self._unsent += pack(message)
        if isinstance(message, Taken | Moving | Ended):
            try:
                self._channel.sendall(self._unsent)
            except ConnectionError as error:
                raise KeeperGone from error
            self._unsent.clear()


def start(sockets: Sequence[Held], lifeline: int) -> tuple[int, socket.socket]:
    """Fork a worker for these sockets: its process id, and the keeper's end of the channel, which does not block.

    `lifeline`: a descriptor that it keeps open as long as it lives.
    The worker ends by itself when that end is closed. Raises OSError.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _become_worker(theirs, sockets, lifeline)
    theirs.close()
    ours.setblocking(False)
    return pid, ours


def _become_worker(channel: socket.socket, sockets: Sequence[Held], lifeline: int) -> None:
    """Never returns. The keeper's other descriptors are closed: by them its death, and the daemon's, is noticed."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        kept = {0, 1, 2, lifeline, channel.fileno(), *(held.sock.fileno() for held in sockets)}
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            if int(name) not in kept:
                _close(int(name))
        Worker(channel, sockets).run()
        status = 0
    except BaseException:  # noqa: BLE001 - the end of this process
        traceback.print_exc()
    finally:
        os._exit(status)  # nothing of the keeper's that is to be done at exit


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        return

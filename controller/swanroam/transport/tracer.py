"""The process that stops the owners for the keeper, and holds them still until the worker is through when it dies.

What a process traces runs when that process ends. Were the keeper the tracer, its death would set a program going on a
socket that the worker has in pieces, and the program would see EINVAL or EPERM from it. So this is a third process. It
is forked before the mover has anything, holds nothing but CAP_SYS_PTRACE, and touches nobody's socket.

    keeper ──── requests, answers ────► tracer      ends with the keeper
    keeper, workers ──── lifeline ────► tracer      says nothing; ends when the last of them has ended

When the lifeline has ended, or the keeper has and a worker hangs, the tracer lets everybody go and ends. When it dies
itself the kernel lets them go; the keeper then finishes what is under way and ends too.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import traceback
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from swanroam.kernel.privileges import Capability
from swanroam.transport import privileges
from swanroam.transport.jobs import pack, unpack_from
from swanroam.transport.stopping import NotStopped, Stopper

ANSWER_LIMIT: Final = 2.0
"""Seconds for an answer; stopping takes a tenth of one at most (`stopping.STOP_LIMIT`)."""
WORKER_LIMIT: Final = 1.0
"""Seconds that a worker has for the socket in hand when the keeper has died."""
_LATE_INTERVAL: Final = 5
"""Milliseconds between looking for threads that stop after their time."""


class TracerGone(ConnectionError):  # noqa: N818 - that it is gone is what happened
    """Nobody is stopped any more, and nobody can be."""


@dataclass(frozen=True, slots=True)
class _Stop:
    pids: frozenset[int]


@dataclass(frozen=True, slots=True)
class _LetGo:
    pids: frozenset[int]


class Tracer:
    """The keeper's side of it. Calls wait for the answer."""

    def __init__(self, pid: int, channel: socket.socket, lifeline: socket.socket) -> None:
        self.pid: Final = pid
        self.lifeline: Final = lifeline
        """A worker keeps its copy of this, and closes that by its end."""
        self._channel = channel
        self._received = bytearray()
        channel.settimeout(ANSWER_LIMIT)
        lifeline.setblocking(False)

    def stop(self, pids: Collection[int]) -> tuple[NotStopped, ...]:
        """As `Stopper.stop`. Raises TracerGone."""
        failures = self._ask(_Stop(frozenset(pids)))
        assert isinstance(failures, tuple)
        return failures

    def let_go(self, pids: Iterable[int]) -> None:
        """As `Stopper.let_go`. When the tracer is gone they run already."""
        if pids := frozenset(pids):
            with suppress(TracerGone):
                self._ask(_LetGo(pids))

    async def ended(self) -> None:
        """Wait until there is no tracer any more."""
        with suppress(ConnectionError):
            await asyncio.get_running_loop().sock_recv(self.lifeline, 1)

    def close(self) -> None:
        """Everybody is let go, once no worker is there either."""
        self._channel.close()
        self.lifeline.close()

    def _ask(self, request: _Stop | _LetGo) -> object:
        try:
            self._channel.sendall(pack(request))
            while (answer := unpack_from(self._received)) is None:
                part = self._channel.recv(1 << 16)
                if not part:
                    raise TracerGone("the mover's tracer has ended, and everybody runs")
                self._received += part
        except TracerGone:
            raise
        except OSError as error:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # what it holds must run
            raise TracerGone(f"the mover's tracer does not answer, and is ended: {error}") from error
        return answer


def start() -> Tracer:
    """Fork a tracer. To be called while the process is single-threaded and holds nothing. Raises OSError."""
    ours, theirs = socket.socketpair()
    lifeline, end_of_lifeline = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        lifeline.close()
        _become_tracer(theirs, end_of_lifeline)
    theirs.close()
    end_of_lifeline.close()
    return Tracer(pid, ours, lifeline)


def _become_tracer(requests: socket.socket, lifeline: socket.socket) -> NoReturn:
    status = 1
    try:
        privileges.be_spared_and_named("swanroam-tracer")
        privileges.drop(keep=frozenset({Capability.SYS_PTRACE}))
        kept = {0, 1, 2, requests.fileno(), lifeline.fileno()}
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            if int(name) not in kept:
                with suppress(OSError):
                    os.close(int(name))
        _serve(requests, lifeline)
        status = 0
    except BaseException:  # noqa: BLE001 - the end of this process
        traceback.print_exc()
    finally:
        os._exit(status)


def _serve(requests: socket.socket, lifeline: socket.socket) -> None:
    """Until nobody is there who could be in the middle of anything."""
    stopper = Stopper()
    try:
        _answer_all(requests, stopper)
        end = select.poll()
        end.register(lifeline, select.POLLIN)
        end.poll(1000 * WORKER_LIMIT)
    finally:
        stopper.let_all_go()


def _answer_all(requests: socket.socket, stopper: Stopper) -> None:
    """Until the keeper is gone."""
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    received = bytearray()
    while True:
        if not waiting.poll(_LATE_INTERVAL if stopper.waits_for_late_ones else None):
            stopper.let_late_ones_go()
            continue
        try:
            part = requests.recv(1 << 16)
            if not part:
                return
            received += part
            while (request := unpack_from(received)) is not None:
                requests.sendall(pack(_answer(request, stopper)))
        except ConnectionError:
            return


def _answer(request: object, stopper: Stopper) -> tuple[NotStopped, ...]:
    if isinstance(request, _Stop):
        return stopper.stop(request.pids)
    assert isinstance(request, _LetGo)
    stopper.let_go(request.pids)
    return ()

"""The keeper's side of the worker: jobs go out, reports come back, and a worker that dies is replaced.

What a dead worker had in hand is finished here, in the keeper itself, from the image that it had handed over. The rest
of the job goes to a new worker.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from swanroam.transport import jobs, moving, worker
from swanroam.transport.jobs import Build, Halt, Held, Job, LetGo, Read, Report, Stage
from swanroam.transport.orders import Reason, Refusal

MOST_DEATHS: Final = 3
"""Workers of one transfer that may die before no other is started."""
HALT_LIMIT: Final = 0.2
"""Seconds that a worker has for the socket in hand before it is taken for dead."""
_RECEIVE_SIZE: Final = 1 << 18


class _WorkerDied(Exception):  # noqa: N818 - that it died is what happened
    pass


class Crew:
    """Runs jobs on the sockets, one at a time. `sockets` is kept up to date with what was done to each.

    `pids`: gets the worker's as long as there is one; it has all of the sockets, and is not to be taken for an owner.
    `lifeline`: descriptor by which the tracer knows that there is a worker.
    """

    def __init__(self, sockets: Sequence[Held], pids: set[int], lifeline: int) -> None:
        self._sockets = sockets
        self._pids = pids
        self._lifeline = lifeline
        self._pid: int | None = None
        self._channel: socket.socket | None = None
        self._received = bytearray()
        self._deaths = 0
        self._halted = False
        self._impatience: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Fork a worker; to be done before anybody is stopped, for it takes some time. Raises OSError."""
        self._pid, self._channel = worker.start(self._sockets, self._lifeline)
        self._pids.add(self._pid)
        self._received.clear()

    async def do(self, job: Job) -> None:
        """Until the job is done or halted; what became of each socket is noted in it. Never raises for a socket.

        A job can be done after `halt`, which ends only the one under way.
        """
        self._halted = False
        while job.slots and not self._halted:
            done: set[int] = set()
            try:
                await self._run(job, done)
                break
            except _WorkerDied:
                self._bury()
                self._clean_up_after(job, done)
            job = _without(job, done)
            if self._deaths >= MOST_DEATHS:
                self._do_here(job)
                break
            self._start_again()
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def halt(self) -> None:
        """Let the worker finish the socket in hand and no more; kill it when that takes too long."""
        if self._halted or self._channel is None:
            return
        self._halted = True
        with suppress(OSError):  # it may be dead, or have enough to read
            self._channel.send(jobs.pack(Halt()))
        self._impatience = asyncio.get_running_loop().call_later(HALT_LIMIT, self._kill)

    def close(self) -> None:
        """End the worker. It has nothing in hand then."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._kill()
        self._reap()

    async def _run(self, job: Job, done: set[int]) -> None:
        """Have the worker do the job; `done` gets those that it is through with. Raises _WorkerDied."""
        if self._channel is None:
            raise _WorkerDied
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._channel, jobs.pack(job))
            while True:
                while (message := jobs.unpack_from(self._received)) is None:
                    part = await loop.sock_recv(self._channel, _RECEIVE_SIZE)
                    if not part:
                        raise _WorkerDied
                    self._received += part
                if isinstance(message, jobs.Ended):
                    return
                assert isinstance(message, Report)
                self._note(message, done)
        except ConnectionError as error:
            raise _WorkerDied from error

    def _note(self, report: Report, done: set[int]) -> None:
        jobs.apply(self._sockets[report.slot], report)
        if not isinstance(report, jobs.Taken | jobs.Moving):
            done.add(report.slot)

    def _bury(self) -> None:
        self._deaths += 1
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._kill()
        self._reap()

    def _kill(self) -> None:
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)

    def _reap(self) -> None:
        if self._pid is not None:
            os.waitpid(self._pid, 0)
            self._pids.discard(self._pid)
            self._pid = None

    def _clean_up_after(self, job: Job, done: set[int]) -> None:
        """Finish the socket that the worker had taken apart, and take those out of repair mode that it had not."""
        for slot in job.slots:
            held = self._sockets[slot]
            if held.stage is Stage.IN_PIECES:
                worker.finish(slot, held, lambda report: self._note(report, done))
            elif held.stage is Stage.UNTOUCHED:
                moving.clear(held.entry, held.sock, held.reuse_address)

    def _start_again(self) -> None:
        with suppress(OSError):  # the next attempt to use it counts as another death
            self.start()

    def _do_here(self, job: Job) -> None:
        """What nobody else does: programs get their sockets back; nothing else is begun."""
        done: set[int] = set()
        for slot in job.slots:
            if isinstance(job, LetGo):
                worker.let_go(slot, self._sockets[slot], lambda report: self._note(report, done))
            else:
                self._sockets[slot].refusal = Refusal(Reason.FAILED, f"{self._deaths} workers have died")


def _without(job: Job, done: set[int]) -> Job:
    """What is left of the job."""
    if isinstance(job, Build):
        left = [pair for pair in zip(job.slots, job.peer_numbers, strict=True) if pair[0] not in done]
        return replace(job, slots=tuple(slot for slot, _ in left), peer_numbers=tuple(number for _, number in left))
    slots = tuple(slot for slot in job.slots if slot not in done)
    return Read(slots) if isinstance(job, Read) else LetGo(slots)

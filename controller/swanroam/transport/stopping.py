"""Stopping processes so that nothing of them touches a socket, and letting them run on as if nothing had been.

Each thread is seized and interrupted (PTRACE_SEIZE, PTRACE_INTERRUPT), which no signal handler, parent or shell sees.
When the tracer ends, in whatever way, the kernel lets all of them run (exit_ptrace): nothing can stay stopped.
A thread is stopped in one of three ways, and each is left as ptrace(2) demands: by the interrupt itself; at a signal
that it was about to get (signal-delivery-stop), which is given to it when it is let go; or, when its process had been
stopped by a signal before (Ctrl-Z), in a group-stop, to which it returns.

All calls must come from one thread: to the kernel the tracer is a thread. Source: ptrace(2); kernel/ptrace.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

STOP_LIMIT: Final = 0.1
"""Seconds within which a thread must stop, or the next of many. One that waits for a disk or a dead NFS server (state
D) does not."""
ALL_LIMIT: Final = 0.5
"""Seconds within which all threads must stop that are asked at once: hundreds have to get the processor for it."""

_PTRACE_DETACH: Final = 17
_PTRACE_SEIZE: Final = 0x4206
_PTRACE_INTERRUPT: Final = 0x4207
_PTRACE_EVENT_STOP: Final = 128
_WALL: Final = 0x40000000
_POLL_INTERVAL: Final = 0.00005

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class StopFailure(Enum):
    """Why a process could not be stopped."""

    TRACED = "another process traces it"
    PERMISSION = "it may not be traced"
    TOO_SLOW = "a thread of it did not stop in time"
    VANISHED = "it has ended"


@dataclass(frozen=True, slots=True)
class NotStopped:
    """A process that was not stopped, and runs."""

    pid: int
    failure: StopFailure
    detail: str


class _Patience:
    """How long to wait for threads to stop: `limit` seconds from the last that did, ALL_LIMIT from the beginning."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._end = time.monotonic() + ALL_LIMIT
        self.renew()

    def renew(self) -> None:
        self._deadline = min(self._end, time.monotonic() + self._limit)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._deadline


class Stopper:
    """The processes that are stopped. One that is asked for twice runs again when it was let go twice."""

    def __init__(self) -> None:
        self._held: Counter[int] = Counter()
        self._signals: dict[int, dict[int, int]] = {}
        """For each process its stopped threads, and for each of these the signal that it must get, or 0."""
        self._late: set[int] = set()
        """Threads that did not stop in time. They are let go when they do."""

    @property
    def stopped(self) -> frozenset[int]:
        return frozenset(self._signals)

    @property
    def waits_for_late_ones(self) -> bool:
        """Whether `let_late_ones_go` must be called, again and again."""
        return bool(self._late)

    def stop(self, pids: Collection[int], limit: float = STOP_LIMIT) -> tuple[NotStopped, ...]:
        """Stop every thread of these processes; `limit`: seconds in which the next one must stop.

        Returns those that could not be stopped: they run. All others are stopped until `let_go`.
        """
        patience = _Patience(limit)
        failures: dict[int, NotStopped] = {}
        new = {pid for pid in pids if pid not in self._signals}
        self._signals.update({pid: {} for pid in new})
        # A thread that runs can make another one; once all that are known are stopped, nobody can.
        pending = set(new)
        while pending:
            found = {pid: self._seize(pid, failures) for pid in pending}
            for pid, threads in found.items():
                self._await(pid, threads, patience, failures)
            pending = {pid for pid, threads in found.items() if threads and pid not in failures}
        for pid in new:
            if pid not in failures and not self._signals[pid]:
                failures[pid] = NotStopped(pid, StopFailure.VANISHED, f"process {pid} has ended")
        for pid in failures:
            self._detach(self._signals.pop(pid, {}))
        self._held.update(pid for pid in set(pids) if pid not in failures)
        return tuple(failures.values())

    def let_go(self, pids: Iterable[int]) -> None:
        """Let these processes run on. It is no error when they are not stopped, or not there any more."""
        for pid in set(pids) & set(self._signals):
            self._held[pid] -= 1
            if self._held[pid] <= 0:
                del self._held[pid]
                self._detach(self._signals.pop(pid))

    def let_all_go(self) -> None:
        """Let every process run on, however often it was stopped."""
        self._held.clear()
        for pid in list(self._signals):
            self._detach(self._signals.pop(pid))

    def let_late_ones_go(self) -> None:
        """Detach from threads that have stopped after their time; a thread that runs cannot be detached from."""
        for thread in list(self._late):
            if (status := _status_of(thread)) is None:
                continue
            self._late.discard(thread)
            if os.WIFSTOPPED(status):
                self._detach({thread: _signal_in(status)})

    def _seize(self, pid: int, failures: dict[int, NotStopped]) -> list[int]:
        """Take hold of the threads that are not yet held, and tell them to stop."""
        seized = []
        for thread in _threads_of(pid):
            if thread in self._signals[pid]:
                continue
            if thread in self._late:
                failures[pid] = NotStopped(pid, StopFailure.TOO_SLOW, f"thread {thread} has still not stopped")
                break
            if (number := _ptrace(_PTRACE_SEIZE, thread)) == 0:
                seized.append(thread)
                _ptrace(_PTRACE_INTERRUPT, thread)
            elif number != errno.ESRCH and not _is_dead(pid, thread):
                failures[pid] = _refused(pid, thread, number)
                break
        return seized

    def _await(self, pid: int, threads: list[int], patience: _Patience, failures: dict[int, NotStopped]) -> None:
        for thread in threads:
            while (status := _status_of(thread)) is None:
                if patience.is_over:
                    self._late.add(thread)
                    failures.setdefault(
                        pid, NotStopped(pid, StopFailure.TOO_SLOW, f"thread {thread} of process {pid} does not stop")
                    )
                    break
                time.sleep(_POLL_INTERVAL)
            else:
                patience.renew()
                if os.WIFSTOPPED(status):
                    self._signals[pid][thread] = _signal_in(status)

    @staticmethod
    def _detach(threads: dict[int, int]) -> None:
        for thread, signal_number in threads.items():
            if _ptrace(_PTRACE_DETACH, thread, signal_number) != 0:
                _status_of(thread)  # killed meanwhile: its parent hears of it once we have


def _ptrace(request: int, thread: int, data: int = 0) -> int:
    """0, or an errno."""
    return 0 if _libc.ptrace(request, thread, None, data) == 0 else ctypes.get_errno()


def _status_of(thread: int) -> int | None:
    """What there is to hear of a thread, without waiting for it: how it stopped or ended. None: nothing yet."""
    try:
        heard, status = os.waitpid(thread, os.WNOHANG | _WALL)
    except ChildProcessError:  # not ours any more: an exec by another thread has taken its place
        return 0
    return status if heard else None


def _signal_in(status: int) -> int:
    """The signal that a stopped thread is about to get; 0 when it did not stop because of one.

    A stop with an event is the interrupt or a group-stop, for which no signal must be passed on.
    """
    return 0 if status >> 16 == _PTRACE_EVENT_STOP else os.WSTOPSIG(status)


def _threads_of(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208 - speed
    except OSError:
        return []


def _is_dead(pid: int, thread: int) -> bool:
    """A main thread that has ended before the others stays as a zombie, and may not be traced."""
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _refused(pid: int, thread: int, number: int) -> NotStopped:
    tracer = _tracer_of(thread)
    if tracer:
        return NotStopped(pid, StopFailure.TRACED, f"process {tracer} traces thread {thread} of process {pid}")
    reason = os.strerror(number)
    return NotStopped(pid, StopFailure.PERMISSION, f"thread {thread} of process {pid} may not be traced: {reason}")


def _tracer_of(thread: int) -> int:
    try:
        with open(f"/proc/{thread}/status", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - speed
            return next((int(line.split()[1]) for line in file if line.startswith("TracerPid:")), 0)
    except OSError:
        return 0

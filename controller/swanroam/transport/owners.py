"""Who has a socket open: which processes, under which descriptors, and what stands against stopping them.

/proc is read once and remembered; a descriptor that is not what it was, a socket that is not known, or too much time
make it be read again. A process that got a socket by fork after that is new, and is found by its number.
Source: proc_pid_fd(5), proc_pid_status(5).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import time
from collections.abc import Collection
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

REMEMBERED: Final = 5.0
"""Seconds for which a reading of /proc counts."""
_AT_A_TIME: Final = 20
"""Processes that are looked at before other tasks have their turn."""
_IO_URING: Final = "anon_inode:[io_uring]"
_SYS_PIDFD_GETFD: Final = 438  # the same on every architecture of Linux but alpha

_libc = ctypes.CDLL(None, use_errno=True)


class DescriptorError(Exception):
    """A descriptor of another process could not be duplicated."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A descriptor of a process."""

    pid: int
    descriptor: int


@dataclass(frozen=True, slots=True)
class Process:
    """What one must know of a process before it is stopped."""

    pid: int
    command: str
    """comm: its name, at most 15 characters."""
    tracer: int
    """Process that traces one of its threads (a debugger, strace); 0 for none."""
    foreign_user_namespace: bool
    """It is in another user namespace than the mover, or that could not be found out."""

    def __str__(self) -> str:
        return f"{self.command}/{self.pid}"


def look_at(pid: int) -> Process | None:
    """None when there is no such process any more."""
    try:
        command = _text(f"/proc/{pid}/comm").rstrip("\n")
        status = _text(f"/proc/{pid}/status")
    except OSError:
        return None
    tracer = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:")), 0)
    ours = _link("/proc/self/ns/user")
    return Process(pid, command, tracer, _link(f"/proc/{pid}/ns/user") != ours)


def duplicate(holder: Holder, inode: int) -> socket.socket:
    """A descriptor of our own for a process's socket; the process notices nothing (pidfd_getfd(2)).

    Raises DescriptorError when it may not be had, or is not the socket with this inode.
    """
    what = f"descriptor {holder.descriptor} of process {holder.pid}"
    try:
        pidfd = os.pidfd_open(holder.pid)
    except OSError as error:
        raise DescriptorError(f"{what} cannot be duplicated: {error}") from error
    try:
        copy = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, holder.descriptor, 0)
    finally:
        os.close(pidfd)
    if copy < 0:
        raise DescriptorError(f"{what} cannot be duplicated: {os.strerror(ctypes.get_errno())}")
    if os.fstat(copy).st_ino != inode:
        os.close(copy)
        raise DescriptorError(f"{what} is not the socket any more that it was")
    # The open description is the owner's too. Never set a timeout on this: it would be O_NONBLOCK for both.
    return socket.socket(fileno=copy)


class OwnerTable:
    """The descriptors of this host's processes that are sockets. `ignored`: processes that are not looked at."""

    def __init__(self, ignored: Collection[int] = ()) -> None:
        self.ignored: set[int] = {os.getpid(), *ignored}
        self._holders: dict[int, list[Holder]] = {}
        self._pids: set[int] = set()
        self._rings: set[int] = set()
        self._read_at = float("-inf")

    async def holders(self, inodes: Collection[int]) -> dict[int, tuple[Holder, ...]]:
        """Who has these sockets. One that nobody has whom we may look at is missing.

        Threads that do not share their process's descriptors (unshare(2), CLONE_FILES) are not looked at.
        """
        wanted = set(inodes) - {0}
        if wanted and (time.monotonic() > self._read_at + REMEMBERED or not all(map(self._fits, wanted))):
            self._forget()
        if wanted:
            await self.update()
        return {inode: tuple(self._holders[inode]) for inode in wanted if inode in self._holders}

    async def update(self) -> None:
        """Look at the processes that are new since the last time."""
        present = {int(name) for name in os.listdir("/proc") if name.isdigit()} - self.ignored  # noqa: PTH208 - speed
        for count, pid in enumerate(present - self._pids, start=1):
            self._read(pid)
            if count % _AT_A_TIME == 0:
                await asyncio.sleep(0)
        self._pids = present

    def known(self, inode: int) -> tuple[Holder, ...]:
        """Who has the socket, as far as has been read."""
        return tuple(self._holders.get(inode, ()))

    def duplicate(self, inode: int) -> socket.socket | None:
        """From any of its known owners, as some may have ended; None if there are none. Raises DescriptorError."""
        failure: DescriptorError | None = None
        for holder in self.known(inode):
            try:
                return duplicate(holder, inode)
            except DescriptorError as error:
                failure = error
        if failure is not None:
            raise failure
        return None

    def uses_io_uring(self, pid: int) -> bool:
        """Whether the process has an io_uring, whose workers in the kernel go on while its threads are stopped."""
        return pid in self._rings

    def _forget(self) -> None:
        self._holders, self._pids, self._rings = {}, set(), set()
        self._read_at = time.monotonic()

    def _fits(self, inode: int) -> bool:
        """Whether those that we know to have the socket still do."""
        return inode in self._holders and all(
            _link(f"/proc/{holder.pid}/fd/{holder.descriptor}") == f"socket:[{inode}]"
            for holder in self._holders[inode]
        )

    def _read(self, pid: int) -> None:
        directory = f"/proc/{pid}/fd"
        # The directory vanishes with the process, or may not be read; neither is an error.
        with suppress(OSError), closing(os.scandir(directory)) as entries:
            for entry in entries:
                target = _link(entry.path)
                if target.startswith("socket:["):
                    self._holders.setdefault(int(target[8:-1]), []).append(Holder(pid, int(entry.name)))
                elif target == _IO_URING:
                    self._rings.add(pid)


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - as below
        return file.read()


def _link(path: str) -> str:
    """Where it points to; empty when it is gone."""
    try:
        return os.readlink(path)  # noqa: PTH115 - a Path for each would double the time
    except OSError:
        return ""

"""Which processes there are behind files, sockets and locks, and what they were started with. See proc(5)."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PROC = Path("/proc")
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def holder_of(lock: Path, locks: Path = PROC / "locks") -> int | None:
    """The process that has a file locked by flock(2); None if there is none. Without taking the lock oneself."""
    try:
        found = lock.stat()
        lines = locks.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in lines:  # "1: FLOCK  ADVISORY  WRITE 812 00:19:1203 0 EOF"
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == wanted:
            return int(fields[4])
    return None


def peer_of_socket(path: Path) -> int | None:
    """The process that listens on a Unix socket (SO_PEERCRED, unix(7)); None if it can't be told."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(str(path))
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    pid: int = _CREDENTIALS.unpack(raw)[0]
    return pid or None  # 0: in another PID namespace


def started_at(pid: int, proc: Path = PROC) -> float | None:
    """When a process was started, in seconds since 1970, as file times are; None if it can't be told."""
    try:
        ticks = int((proc / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        lines = (proc / "stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError, IndexError):
        return None
    booted = next((int(line.split()[1]) for line in lines if line.startswith("btime ")), None)
    return None if booted is None else booted + ticks / os.sysconf("SC_CLK_TCK")


def environment_of(pid: int, proc: Path = PROC) -> dict[str, str] | None:
    """What a process was started with; None if that must not be read."""
    try:
        raw = (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    entries = (entry.partition("=") for entry in raw.decode("utf-8", "surrogateescape").split("\0"))
    return {name: value for name, equals, value in entries if equals}


def status_of(pid: int, proc: Path = PROC) -> dict[str, str]:
    """/proc/PID/status; empty when the process has gone or is hidden."""
    try:
        lines = (proc / str(pid) / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def daemons(proc: Path = PROC) -> Iterator[int]:
    """Processes in our network namespace that were started as `swanroam run`."""
    ours = _namespace(proc / "self")
    for directory in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            words = (directory / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if _runs(words) and _namespace(directory) in (ours, None):
            yield int(directory.name)


def _runs(words: Sequence[str]) -> bool:
    """`swanroam run`, `python /opt/swanroam/bin/swanroam run`, `python -m swanroam.cli.main run`."""
    for program, command in pairwise(words):
        if command == "run" and (Path(program).name == "swanroam" or program == "swanroam.cli.main"):
            return True
    return False


def _namespace(process: Path) -> str | None:
    try:
        return str((process / "ns" / "net").readlink())
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Output:
    """What a program said. `missing`: it is not installed."""

    status: int
    out: str
    err: str
    missing: bool = False


def output_of(*argv: str, limit: float = 10.0) -> Output:
    """Runs a program that only reads. `limit`: seconds. Raises nothing."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"  # where ordinary users do not look
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
            env={**os.environ, "PATH": path, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return Output(127, "", f"{argv[0]} is not installed", missing=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Output(126, "", f"{argv[0]}: {error}")
    return Output(done.returncode, done.stdout, done.stderr.strip())

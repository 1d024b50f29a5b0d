"""The history on disk: one JSON object a line, appended as things happen.

An entry is written with one write(2), so a crash can tear the last line at most; the next run begins a new one, and the
reader passes over what makes no sense and says how much that was. When the file is full it becomes the older of two, in
place of the one before: so much is kept, and no more than twice that. Nothing is flushed to the disk: a power cut costs
the last seconds, and waiting for the disk at each step would cost the handovers more.

Each entry has the time of day for people, and the monotonic clock with the boot that it belongs to, for durations: it
goes on through restarts of the daemon (CLOCK_MONOTONIC, clock_gettime(2); it stands still while the host sleeps).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swanroam.history.clock import stamp

VERSION = 1
LIMIT = 2_000_000
"""Bytes of one of the two files: about a thousand handovers."""
_MOST_TEXT = 2000
"""Characters of one text: what a peer or charon says can be long."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class HistoryError(Exception):
    """The history can't be read; `denied` if for want of permission. The message says what to do."""

    def __init__(self, message: str, *, denied: bool) -> None:
        super().__init__(message)
        self.denied = denied


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened."""

    at: float
    """Seconds since 1970 by the clock of that time."""
    monotonic: float
    """Seconds on the monotonic clock of that boot."""
    boot: str
    kind: str
    fields: Mapping[str, Any]

    @property
    def peer(self) -> str:
        """Its name; empty for what concerns all of them."""
        return self.text("peer")

    @property
    def handover(self) -> str:
        return self.text("handover")

    def number(self, name: str) -> float:
        """A field that is a number; 0 if there is none."""
        value = self.fields.get(name, 0)
        return value if isinstance(value, int | float) and abs(value) < 1e11 else 0

    def text(self, name: str) -> str:
        """A field that is a text; empty if there is none."""
        value = self.fields.get(name, "")
        return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Found:
    """What was read."""

    entries: tuple[Entry, ...]
    """In the order in which they were written."""
    unreadable: int
    """Lines that make no sense: torn, damaged, or of another version."""


class HistoryFile:
    """Where the daemon writes. What can't be written is lost, and the daemon goes on: `trouble` says why."""

    def __init__(self, path: Path, *, boot: str | None = None, limit: int = LIMIT) -> None:
        self.path = path
        self.trouble = ""
        """Why the last entry could not be written; empty when it could."""
        self._boot = (boot if boot is not None else _BOOT_ID.read_text().strip())[:8]
        self._limit = limit
        self._whole = False
        """The file is known to end with a whole line."""

    def write(self, kind: str, fields: Mapping[str, Any], monotonic: float, age: float = 0.0) -> None:
        """Appends an entry about something that happened `age` seconds ago, at `monotonic`."""
        head = {"version": VERSION, "at": round(stamp() - age, 6), "monotonic": round(monotonic, 6)}
        entry = head | {"boot": self._boot, "kind": kind} | {name: _short(value) for name, value in fields.items()}
        try:
            self._append(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            self._whole = False
            self.trouble = f"cannot write the history {self.path}: {error.strerror}"
        else:
            self.trouble = ""

    def _append(self, line: bytes) -> None:
        """Raises OSError; part of the line may be in the file then."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            size = os.fstat(descriptor).st_size
            if size and not self._whole and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            if size + len(line) > self._limit and size:
                self.path.replace(older(self.path))
                self._whole = True  # the new one is empty
                self._append(line.lstrip(b"\n"))
                return
            written = os.write(descriptor, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._whole = True
        finally:
            os.close(descriptor)


def older(path: Path) -> Path:
    """The other of the two files."""
    return path.with_name(path.name + ".1")


def read(path: Path) -> Found:
    """All that is kept; nothing if nothing was ever written. Raises HistoryError."""
    content = _content(path, older(path))
    entries: list[Entry] = []
    unreadable = 0
    for line in content.split(b"\n"):
        if not line.strip(b"\0 "):
            continue
        entry = _entry(line)
        if entry is None:
            unreadable += 1
        else:
            entries.append(entry)
    return Found(tuple(entries), unreadable)


def _content(path: Path, before: Path) -> bytes:
    """Of both files. They change places under the eyes of the reader, so it looks again until they have not."""
    while True:
        identity = _identity(path)
        parts = [_bytes(before), _bytes(path)]
        if _identity(path) == identity:
            return b"\n".join(parts)


def _identity(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise _unreadable(path, error) from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> HistoryError:
    denied = isinstance(error, PermissionError)
    remedy = "run as root, or as the user that swanroam runs as" if denied else "look after the file and its disk"
    return HistoryError(f"cannot read the history {path}: {error.strerror}: {remedy}", denied=denied)


def _entry(line: bytes) -> Entry | None:
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict) or fields.pop("version") != VERSION:
            return None
        at, monotonic = float(fields.pop("at")), float(fields.pop("monotonic"))
        boot, kind = fields.pop("boot"), fields.pop("kind")
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    sane = isinstance(boot, str) and isinstance(kind, str) and 0 <= at < 1e11 and abs(monotonic) < 1e11
    return Entry(at, monotonic, boot, kind, fields) if sane else None


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _MOST_TEXT:
        return f"{value[:_MOST_TEXT]} … ({len(value) - _MOST_TEXT} more characters, which the log has)"
    return value

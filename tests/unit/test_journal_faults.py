"""The journal while the disk fails it: what stands there is the old content or the new one, and it recovers."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swanroam.daemon.journal import Journal, JournalError

OLD: dict[str, Any] = {"peer.example.org": {"sequence": 7, "own": ["192.0.2.1"]}}
NEW: dict[str, Any] = {"peer.example.org": {"sequence": 8, "own": ["192.0.2.2", "192.0.2.1"]}}
CALLS = ("open", "write", "fsync", "replace")
"""What `os` is asked for by a write; `Path.replace` ends in `os.replace`."""


def journal(path: Path) -> Journal:
    return Journal(path, boot_id="this boot")


class PowerCut(BaseException):
    """Nothing of the program runs after it."""


class Faults:
    """Counts the calls, and lets the one with a number fail before it does anything."""

    def __init__(self, failing: int, error: BaseException) -> None:
        self.made: list[str] = []
        self._failing = failing
        self._error = error

    def around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.made.append(name)
            if len(self.made) == self._failing:
                raise self._error
            return real(*arguments, **options)

        return call


def descriptors() -> int:
    """Open ones of this process, one for looking among them."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def stored_with(monkeypatch: pytest.MonkeyPatch, faults: Faults, written: Journal) -> None:
    """Store NEW while calls fail; what that raises is raised here."""
    with monkeypatch.context() as patched:
        for name in CALLS:
            patched.setattr(os, name, faults.around(name, getattr(os, name)))
        written.store(NEW)


def test_these_are_the_calls_of_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(0, PowerCut())

    stored_with(monkeypatch, faults, journal(tmp_path / "journal.json"))

    assert faults.made == ["open", "write", "fsync", "replace", "open", "fsync"]


@pytest.mark.parametrize("failing", range(1, 7))
@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room in"),
        (errno.EDQUOT, "make room in"),
        (errno.EIO, "look after the disk"),
        (errno.EROFS, "mount .* writable"),
        (errno.EACCES, "mend the permissions of"),
        (errno.EMFILE, "LimitNOFILE="),
    ],
)
def test_an_error_at_any_call_is_told_and_the_next_write_makes_it_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, number: int, remedy: str
) -> None:
    path = tmp_path / "journal.json"
    written = journal(path)
    written.store(OLD)
    before = descriptors()

    with pytest.raises(JournalError, match=rf"cannot write the journal .*: {os.strerror(number)}: .*{remedy}"):
        stored_with(monkeypatch, Faults(failing, OSError(number, os.strerror(number))), written)

    assert journal(path).load() == (OLD if failing <= 4 else NEW)
    assert written.store(NEW), "what may not be on the disk for good is written again"
    assert journal(path).load() == NEW
    assert descriptors() == before


@pytest.mark.parametrize("failing", range(1, 7))
def test_after_a_power_cut_at_any_call_the_next_run_reads_one_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = tmp_path / "journal.json"
    journal(path).store(OLD)

    with pytest.raises(PowerCut):
        stored_with(monkeypatch, Faults(failing, PowerCut()), journal(path))

    next_run = journal(path)
    assert next_run.load() == (OLD if failing <= 4 else NEW)
    next_run.store(NEW)
    assert journal(path).load() == NEW


@contextmanager
def files_end_at(octets: int) -> Iterator[None]:
    """The kernel writes files up to here and no further (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_is_torn_at_any_octet_leaves_the_old_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    written = journal(path)
    written.store(NEW)
    whole = path.read_bytes()
    written.store(OLD)

    for octets in range(len(whole)):
        with files_end_at(octets), pytest.raises(JournalError, match="File too large: make room in"):
            written.store(NEW)
        assert path.with_name("journal.json.new").read_bytes() == whole[:octets]
        assert journal(path).load() == OLD

    assert written.store(NEW)
    assert path.read_bytes() == whole

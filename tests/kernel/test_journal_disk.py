"""The journal on a file system that takes no more: full of data, full of files, or read-only."""

import ctypes
import errno
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from swanroam.daemon.journal import Journal, JournalError

pytestmark = pytest.mark.kernel

OLD = {"peer.example.org": {"sequence": 7}}
NEW = {"peer.example.org": {"sequence": 8}}
_CLONE_NEWNS = 0x00020000
_LIBC = ctypes.CDLL(None, use_errno=True)


def with_own_mounts(body: Callable[[], None]) -> None:
    """Call `body` in a thread whose mounts nobody else sees, and which go with it; what it raises is raised here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if _LIBC.unshare(_CLONE_NEWNS) != 0:
                raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNS)")
            mount("--make-rprivate", "/")
            body()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="mounts")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def until_full(create: Callable[[int], object]) -> None:
    """Create one thing after the other until there is no room."""
    number = 0
    try:
        while True:
            create(number)
            number += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017 - how many fit is not known


def fill_with_data(directory: Path) -> Callable[[], None]:
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        until_full(lambda _: file.write(bytes(os.sysconf("SC_PAGESIZE"))))
    return ballast.unlink


def fill_with_files(directory: Path) -> Callable[[], None]:
    until_full(lambda number: (directory / f"ballast-{number}").touch())
    return (directory / "ballast-0").unlink


def make_read_only(directory: Path) -> Callable[[], None]:
    mount("-o", "remount,ro", str(directory))
    return lambda: mount("-o", "remount,rw", str(directory))


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [(fill_with_data, "make room in"), (fill_with_files, "make room in"), (make_read_only, "mount .* writable")],
    ids=["data", "files", "read-only"],
)
def test_what_was_written_stays_and_what_comes_is_written_once_it_can_be(
    tmp_path: Path, spoil: Callable[[Path], Callable[[], None]], remedy: str
) -> None:
    def story() -> None:
        mount("-t", "tmpfs", "-o", "size=64k,nr_inodes=16", "tmpfs", str(tmp_path))
        path = tmp_path / "journal.json"
        running = Journal(path)
        running.store(OLD)
        mend = spoil(tmp_path)

        with pytest.raises(JournalError, match=remedy):
            running.store(NEW)
        assert Journal(path).load() == OLD

        mend()
        assert running.store(NEW)
        assert Journal(path).load() == NEW

    with_own_mounts(story)

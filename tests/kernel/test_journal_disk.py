"""The journal on a file system that takes no more: full of data, full of files, or read-only."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.own_thread import NEW_MOUNTS, in_own_thread
from swanroam.daemon.journal import Journal, JournalError

pytestmark = pytest.mark.kernel

OLD = {"peer.example.org": {"sequence": 7}}
NEW = {"peer.example.org": {"sequence": 8}}


def with_own_mounts(body: Callable[[], None]) -> None:
    """Call `body` in a thread whose mounts nobody else sees, and which go with it; what it raises is raised here."""

    def run() -> None:
        mount("--make-rprivate", "/")
        body()

    in_own_thread(NEW_MOUNTS, run)


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

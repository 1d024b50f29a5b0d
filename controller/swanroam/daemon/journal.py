"""What must survive a crash of the controller: one JSON file, replaced whole before anything is done.

A write goes to a temporary file beside it, is flushed to disk and renamed over the old one (rename(2) is atomic), so
that a torn write leaves the old journal; then the directory is flushed, or a power cut could bring the old one back
(fsync(2)). The kernel objects themselves are found by their marks; the journal says
what they are for. After a reboot sockets and kernel state are gone, so only the sequences are taken over: they must
never go back (RFC 6275 §15.3).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swanroam.kernel.descriptors import MORE_FILES, lacks_descriptors

VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class JournalError(Exception):
    """The journal can't be read or written; the message says which file and what to do."""


class Journal:
    """The stored snapshots of all peers, by identity."""

    def __init__(self, path: Path, *, boot_id: str | None = None) -> None:
        self.path = path
        self._boot_id = boot_id if boot_id is not None else _BOOT_ID.read_text().strip()
        self._stored: str | None = None

    def load(self) -> dict[str, dict[str, Any]]:
        """The snapshots of the last run; empty when there was none. Raises JournalError."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise JournalError(
                f"cannot read the journal {self.path}: {error.strerror}: mend its permissions, or run as root"
            ) from error
        except UnicodeDecodeError as error:
            raise self.damaged("it is not text") from error
        try:
            document = json.loads(text)
            version, same_boot = document["version"], document["boot_id"] == self._boot_id
            peers: dict[str, dict[str, Any]] = document["peers"]
            if version == VERSION and not same_boot:
                peers = {identity: _sequences_only(peer) for identity, peer in peers.items()}
            if not all(isinstance(peer, dict) for peer in peers.values()):
                raise self.damaged("a peer's entry is not an object")
        except KeyError as error:
            raise self.damaged(f"{error} is missing") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self.damaged(str(error)) from error
        if version != VERSION:
            raise JournalError(
                f"the journal {self.path} has version {version}, this is version {VERSION}: "
                "run `swanroam cleanup` of the version that wrote it, then remove the file"
            )
        return peers

    def damaged(self, what: str) -> JournalError:
        """The error for a journal that can be read and not be used."""
        return JournalError(
            f"the journal {self.path} is damaged: {what}. Run `swanroam cleanup`, then remove the file: connections "
            "that still use an old address end, all others go on"
        )

    def store(self, peers: dict[str, dict[str, Any]]) -> bool:
        """Writes the snapshots when they differ from what was written last. Raises JournalError."""
        document = {"version": VERSION, "boot_id": self._boot_id, "peers": peers}
        text = json.dumps(document, indent=1, sort_keys=True)
        if text == self._stored:
            return False
        try:
            self._replace(text.encode())
        except OSError as error:
            raise JournalError(
                f"cannot write the journal {self.path}: {error.strerror}: {self._remedy(error)}"
            ) from error
        self._stored = text
        return True

    def _replace(self, content: bytes) -> None:
        """The file has the old content or the new one at every moment, and the new one for good afterwards.

        Raises OSError: then it has either, and another call makes it right.
        """
        temporary = self.path.with_name(self.path.name + ".new")
        with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            os.fchmod(descriptor, 0o600)  # whatever the umask, and whoever made it
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        temporary.replace(self.path)
        with _opened(self.path.parent, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            os.fsync(descriptor)

    def _remedy(self, error: OSError) -> str:
        if lacks_descriptors(error):
            return MORE_FILES
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
                return f"make room in {self.path.parent}"
            case errno.EIO:
                return "look after the disk, or set state_directory to another one"
            case errno.EROFS:
                return f"mount {self.path.parent} writable, or set state_directory to elsewhere"
            case _:
                return f"mend the permissions of {self.path.parent}"


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor of it, for the owner alone if the file is new. Raises OSError."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sequences_only(peer: dict[str, Any]) -> dict[str, Any]:
    nothing = ("own", "peer", "remembered_peer", "proven", "accepted", "handover", "migrated")
    none_of = ("ours", "disclosed", "lingering", "unannounced")
    empty = dict.fromkeys(nothing) | {name: [] for name in none_of}
    return peer | empty | {"managed": False, "crossing": "none", "led": False}

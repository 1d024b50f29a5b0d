"""State directory, runtime directory and journal."""

from __future__ import annotations

import grp
import os
from pathlib import Path
from typing import Final

from swanroam.daemon.journal import Journal, JournalError
from swanroam.daemon.run import journal_path
from swanroam.doctor import programs
from swanroam.doctor.view import View
from swanroam.kernel.findings import Finding, Severity, ok

_ROOM: Final = 1 << 20
"""Bytes that should be free: a journal is some kilobytes, and is written beside the old one."""


def check(view: View) -> list[Finding]:
    """All of them."""
    return [_group(view), _directory(view, view.config.state_directory), _journal(view)]


def _group(view: View) -> Finding:
    check = "api_group"
    group = view.config.api_group
    try:
        if group is not None:
            grp.getgrnam(group)
    except KeyError:
        evidence = f"there is no group {group}, whose members shall use the command line: the daemon does not start"
        return Finding(check, Severity.ERROR, evidence, "or mend api_group", f"groupadd --system {group}")
    return ok(check, group or "the daemon's own")


def _directory(view: View, directory: Path) -> Finding:
    check = "state directory"
    try:
        found = directory.stat()
        room = os.statvfs(directory)
    except FileNotFoundError:
        return ok(check, f"{directory} is made at the start")
    except OSError as error:
        return _unreadable(check, view, f"{directory}: {error.strerror}")
    user = None if view.daemon_pid is None else programs.status_of(view.daemon_pid).get("Uid", "").split()
    if user and user[0] not in ("0", str(found.st_uid)):
        return Finding(
            check,
            Severity.ERROR,
            f"{directory} belongs to user {found.st_uid}, the daemon runs as {user[0]} and cannot write its journal",
            command=f"chown -R {user[0]} {directory}",
        )
    if room.f_bavail * room.f_frsize < _ROOM:
        evidence = f"the file system of {directory} is full: handovers go on, but a crash would lose them"
        return Finding(check, Severity.ERROR, evidence, "make room", f"df -h {directory}")
    if found.st_mode & 0o022:
        evidence = f"{directory} can be written by others: they can make the daemon hold addresses and carriers"
        return Finding(check, Severity.WARNING, evidence, command=f"chmod go-w {directory}")
    return ok(check, str(directory))


def _journal(view: View) -> Finding:
    check = "journal"
    path = journal_path(view.config)
    try:
        peers = Journal(path).load()
    except JournalError as error:
        if isinstance(error.__cause__, PermissionError):
            return _unreadable(check, view, str(error))
        return Finding(check, Severity.ERROR, str(error), "the daemon does not start with it")
    unknown = sorted(set(peers) - {peer.identity for peer in view.config.peers})
    if unknown:
        return Finding(
            check,
            Severity.NOTE,
            f"{path} has entries of {', '.join(unknown)}, which are no peers in {view.config_file}",
            "they are dropped at the next start; add them again if they still move",
        )
    return ok(check, f"{path}, {len(peers)} peers")


def _unreadable(check: str, view: View, evidence: str) -> Finding:
    if os.geteuid() != 0:
        return Finding(check, Severity.UNSEEN, evidence)
    return Finding(check, Severity.ERROR, evidence, "look after the file system")

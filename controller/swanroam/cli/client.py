"""The command line's side of the local API."""

from __future__ import annotations

import grp
import json
import socket
from pathlib import Path
from typing import Any

from swanroam.cli.exits import Exit
from swanroam.config import runtime_directory

PATIENCE = 30.0
"""Seconds to wait for the daemon's answer."""


class ClientError(Exception):
    """The daemon did not do it; `status` is the exit status for it."""

    def __init__(self, message: str, status: Exit) -> None:
        super().__init__(message)
        self.status = status


def api_socket(config: Path) -> Path:
    """Of the daemon whose configuration file that is, also when it is wrong by now. Raises ConfigError."""
    return runtime_directory(config) / "api.sock"


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """One request to the daemon. Raises ClientError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            line = connection.makefile("rb").readline()
    except (FileNotFoundError, ConnectionRefusedError):
        raise ClientError(
            f"no daemon answers on {path}: start it (systemctl start swanroam, or swanroam run)", Exit.NOT_RUNNING
        ) from None
    except PermissionError:
        raise ClientError(f"no permission to use {path}: run as root{_or_as_a_member(path)}", Exit.PRIVILEGES) from None
    except OSError as error:
        raise ClientError(f"the daemon on {path} does not answer: {error}", Exit.FAILED) from None
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        raise ClientError(f"the daemon on {path} closed the connection without an answer", Exit.FAILED) from None
    if not answer.get("ok"):
        raise ClientError(str(answer.get("error", "the daemon refused without a reason")), Exit.FAILED)
    return answer


def _or_as_a_member(path: Path) -> str:
    """Of the group that may use the socket; its directory, which everybody can see, has the same group."""
    try:
        group = path.parent.stat().st_gid
        return f", or as a member of the group {grp.getgrgid(group).gr_name}" if group else ""
    except (OSError, KeyError):
        return ""

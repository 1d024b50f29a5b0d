"""Tells the service manager how far the daemon is: sd_notify(3), as far as it is needed here."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog

log = structlog.get_logger("swanroam")

READY = "READY=1"
STOPPING = "STOPPING=1"


def tell(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """One datagram to the socket that NOTIFY_SOCKET names; nothing when there is none, because nobody asks."""
    name = environment.get("NOTIFY_SOCKET", "")
    if not name:
        return
    address = f"\0{name[1:]}" if name.startswith("@") else name  # unix(7): abstract names begin with a zero
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode("ascii"), address)
    except OSError as error:
        log.warning("service_manager_not_told", state=state, error=str(error))

"""Tells the service manager how the daemon is: sd_notify(3), as far as it is needed here."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog

log = structlog.get_logger("swanroam")

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def reloading(now: float) -> str:
    """The configuration is being read; READY ends it. `now`: seconds on CLOCK_MONOTONIC, the event loop's clock."""
    return f"RELOADING=1\nMONOTONIC_USEC={int(now * 1_000_000)}"


def status(text: str) -> str:
    """What `systemctl status` shows; nothing, if it is empty."""
    return f"STATUS={text}"


def watchdog_interval(environment: Mapping[str, str] = os.environ) -> float | None:
    """Seconds in which this process has to send WATCHDOG; None when nobody waits for it (sd_watchdog_enabled(3))."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not usec.isdigit() or not int(usec) or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000


def tell(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """One datagram to the socket that NOTIFY_SOCKET names; nothing when there is none, because nobody asks."""
    name = environment.get("NOTIFY_SOCKET", "")
    if not name:
        return
    address = f"\0{name[1:]}" if name.startswith("@") else name  # unix(7): abstract names begin with a zero
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), address)
    except OSError as error:
        log.warning("service_manager_not_told", state=state, error=str(error))

"""Runs a coroutine in a network namespace of its own, made for it and gone with it.

The namespace belongs to one thread (unshare(2) changes only the calling thread, and what it starts inherits it), so
nothing has to be named or removed.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine
from typing import Any

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def in_fresh_namespace(scenario: Callable[[], Coroutine[Any, Any, None]], limit: float = 60.0) -> None:
    """Run `scenario` to its end, `lo` being up; its exception is raised here. `limit`: seconds."""
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.unshare(_CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"unshare(CLONE_NEWNET): {os.strerror(ctypes.get_errno())}")
            ip("link set lo up")
            asyncio.run(asyncio.wait_for(scenario(), limit))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=run, name="fresh-namespace")
    thread.start()
    thread.join()
    if outcome:
        raise outcome[0]


def ip(*lines: str) -> str:
    """`ip` with these arguments in the namespace of the calling thread; several lines run as one batch."""
    if len(lines) == 1:
        argv, batch = ["ip", *lines[0].split()], None
    else:
        argv, batch = ["ip", "-batch", "-"], "\n".join(lines) + "\n"
    done = subprocess.run(argv, input=batch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{lines}: {done.stderr}"
    return done.stdout


async def until_local(*addresses: object) -> None:
    """Wait until packets to these addresses of ours are delivered here. A new IPv6 address gets its local route a
    moment later than its prefix route, from a work queue of the kernel."""
    for address in addresses:
        argv = ["ip", "route", "get", str(address)]
        while not subprocess.run(argv, capture_output=True, text=True, check=False).stdout.startswith("local"):
            await asyncio.sleep(0.005)

"""Runs a coroutine in a network namespace of its own, made for it and gone with it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Coroutine
from typing import Any

from kernel.own_thread import NEW_NETWORK, in_own_thread


def in_fresh_namespace(scenario: Callable[[], Coroutine[Any, Any, None]], limit: float = 60.0) -> None:
    """Run `scenario` to its end, `lo` being up; its exception is raised here. `limit`: seconds."""

    def run() -> None:
        ip("link set lo up")
        asyncio.run(asyncio.wait_for(scenario(), limit))

    in_own_thread(NEW_NETWORK, run)


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

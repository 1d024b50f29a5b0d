"""Tells the service manager again and again that the daemon works, as long as it does: WatchdogSec of the unit.

What is watched is not that some code runs, but that events are handled: the controller's queue must have been looked at
lately. A daemon that hangs is ended by the service manager and started anew; connections do not end with it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

import structlog

from swanroam.daemon import service_manager

log = structlog.get_logger("swanroam")


class Watchdog:
    """`turned` tells when events were last handled, on the loop's clock; that may be `pause` seconds ago."""

    def __init__(self, turned: Callable[[], float], pause: float, environment: Mapping[str, str] = os.environ) -> None:
        self._turned = turned
        self._environment = environment
        self.interval = service_manager.watchdog_interval(environment)
        """Seconds in which the service manager must hear of us; None: it does not watch."""
        self._limit = max(2 * pause, (self.interval or 0.0) * 2 / 3)

    async def run(self) -> None:
        """Three times as often as it must be, until cancelled."""
        if self.interval is None:
            return
        loop = asyncio.get_running_loop()
        hangs = False
        while True:
            idle = loop.time() - self._turned()
            if idle <= self._limit:
                service_manager.tell(service_manager.WATCHDOG, self._environment)
            elif not hangs:
                log.error("controller_hangs", seconds=round(idle), detail="the service manager will start it anew")
            hangs = idle > self._limit
            await asyncio.sleep(self.interval / 3)

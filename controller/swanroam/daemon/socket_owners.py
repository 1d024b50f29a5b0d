"""Which programs have the sockets that are still on old addresses: the mover is asked, the daemon may not look."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from swanroam.daemon.mover import MoverError
from swanroam.daemon.transport import Candidate
from swanroam.kernel.sockets import SocketDiagError
from swanroam.protocol.host_state import Pair
from swanroam.protocol.transfer import Key

log = structlog.get_logger("swanroam")

PATIENCE: Final = 2.0
"""Seconds that `status` waits for names, which it can do without."""
PAUSE: Final = 60.0
"""Seconds in which it does without them after they could not be had."""


class SocketOwners:
    """`candidates` finds the sockets of a pair that would go to another."""

    def __init__(self, candidates: Callable[[Pair, Pair], Awaitable[tuple[Candidate, ...]]]) -> None:
        self._candidates = candidates
        self._again = 0.0

    async def of(self, old: Pair, new: Pair) -> dict[Key, tuple[str, ...]]:
        """As name/pid, as far as the mover can see them."""
        now = asyncio.get_running_loop().time()
        if now < self._again:
            return {}
        try:
            async with asyncio.timeout(PATIENCE):
                return {candidate.key: candidate.owners for candidate in await self._candidates(old, new)}
        except (MoverError, SocketDiagError, TimeoutError) as error:
            log.warning("owners_not_read", error=str(error) or f"the mover has not answered within {PATIENCE:g} s")
            self._again = now + PAUSE
            return {}

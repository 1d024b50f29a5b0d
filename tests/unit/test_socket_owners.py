"""Whose sockets are on old addresses: asked, and done without when nobody answers."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from swanroam.daemon.socket_owners import PATIENCE, PAUSE, SocketOwners
from swanroam.daemon.transport import Candidate
from swanroam.protocol.host_state import Pair
from unit.fake_host import A, B, P
from unit.skipping_loop import run


def test_a_mover_that_does_not_answer_holds_up_status_once_a_minute_at_most() -> None:
    asked = 0

    async def candidates(old: Pair, new: Pair) -> tuple[Candidate, ...]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(3600)
        return ()

    async def story() -> None:
        loop, owners = asyncio.get_running_loop(), SocketOwners(candidates)
        began = loop.time()
        for _ in range(20):
            assert await owners.of(Pair(A, P), Pair(B, P)) == {}
        assert (asked, loop.time() - began) == (1, PATIENCE)
        await asyncio.sleep(PAUSE)
        await owners.of(Pair(A, P), Pair(B, P))
        assert asked == 2

    with capture_logs() as logged:
        run(story())
    assert [entry["event"] for entry in logged] == ["owners_not_read"] * 2

"""What becomes of locks when somebody sets the clock. The kernel's own timers are asked by a lock of one second."""

import asyncio
from ipaddress import ip_address

import pytest

from kernel.xfrm_namespace import in_namespace
from lab.clock import YEARS, clock_jumps
from swanroam.kernel.xfrm.locks import TcpTuple, add_locks, clear_locks, find_locks
from swanroam.kernel.xfrm.socket import XfrmSocket

pytestmark = [pytest.mark.lab, pytest.mark.guest]

LOCK = TcpTuple(ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 2)
SECOND = LOCK._replace(local_port=3)


async def a_second_passes(xfrm: XfrmSocket) -> None:
    """For every lock that was set before."""
    await add_locks(xfrm, [SECOND], 1)
    await gone(xfrm, SECOND)


async def gone(xfrm: XfrmSocket, lock: TcpTuple) -> None:
    async with asyncio.timeout(20):
        while lock in await find_locks(xfrm):
            await asyncio.sleep(0.05)


@in_namespace
async def test_a_clock_set_forward_ends_no_lock_that_is_older_than_a_second() -> None:
    async with XfrmSocket() as xfrm:
        await add_locks(xfrm, [LOCK], 60)
        await a_second_passes(xfrm)
        with clock_jumps(YEARS):
            await a_second_passes(xfrm)
            assert await find_locks(xfrm) == {LOCK}


@in_namespace
async def test_a_clock_set_forward_in_the_first_second_ends_a_lock_with_it() -> None:
    async with XfrmSocket() as xfrm:
        await add_locks(xfrm, [LOCK], 60)
        with clock_jumps(YEARS):
            await gone(xfrm, LOCK)


@in_namespace
async def test_a_clock_set_back_leaves_a_lock_until_it_is_removed() -> None:
    async with XfrmSocket() as xfrm:
        await add_locks(xfrm, [LOCK], 1)
        with clock_jumps(-YEARS):
            await a_second_passes(xfrm)
            assert await clear_locks(xfrm) == {LOCK}
            assert await find_locks(xfrm) == frozenset()

"""The rtnetlink socket is used by several tasks: the one that changes the kernel, and those that answer questions."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from pyroute2.netlink.rtnl import RTM_GETROUTE

from kernel.xfrm_namespace import in_namespace, ip
from swanroam.kernel.rtnetlink import RouteSocket, TunnelRouteMessage

pytestmark = pytest.mark.kernel


def routes(netlink: RouteSocket) -> Awaitable[list[Any]]:
    return netlink.listing(TunnelRouteMessage(), RTM_GETROUTE, "list routes")


@in_namespace
async def test_tasks_may_list_at_the_same_time() -> None:
    ip("link set lo up")
    for number in range(1, 250):
        ip(f"route add 198.51.100.{number}/32 dev lo")
    async with RouteSocket() as netlink:
        listed = await asyncio.gather(*(routes(netlink) for _ in range(50)))
    assert len({len(one) for one in listed}) == 1
    assert len(listed[0]) >= 249

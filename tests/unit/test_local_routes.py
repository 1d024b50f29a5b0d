"""The kernel's own routes to held addresses are removed, however late they come."""

import asyncio
from ipaddress import ip_address
from typing import Any, cast

from swanroam.kernel.local_routes import AutomaticRoute
from swanroam.kernel.rtnetlink import RouteSocket


class Kernel:
    """Has the route from the `late`-th request to remove it on."""

    def __init__(self, late: int) -> None:
        self.late = late
        self.requests = 0

    async def remove(self, message: Any, kind: int, operation: str) -> bool:
        self.requests += 1
        return self.requests == self.late


def remove(address: str, late: int) -> int:
    """After how many requests the route was removed, or given up."""
    kernel = Kernel(late)
    asyncio.run(AutomaticRoute(ip_address(address), 7).remove(cast("RouteSocket", kernel)))
    return kernel.requests


def test_a_route_that_comes_after_its_address_is_removed_when_it_comes() -> None:
    assert remove("2001:db8::1", 1) == 1
    assert remove("2001:db8::1", 4) == 4


def test_a_route_that_never_comes_is_not_waited_for_for_ever() -> None:
    assert 10 < remove("2001:db8::1", 10_000) < 100


def test_ipv4_has_it_at_once() -> None:
    assert remove("192.0.2.1", 2) == 1

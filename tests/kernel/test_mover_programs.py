"""Connections of unmodified programs move to a new address, driven by two movers as two daemons would."""

import pytest

from kernel.mover_hosts import NEW, OLD, Pair, entries, hand_over
from swanroam.transport.orders import Place

pytestmark = pytest.mark.kernel

STYLES = ["blocking", "threads", "select", "poll", "epoll-level", "epoll-edge", "asyncio", "forked"]


@pytest.mark.parametrize(
    "style", [pytest.param(style, marks=pytest.mark.both if style == "epoll-edge" else ()) for style in STYLES]
)
def test_a_program_goes_on_at_the_new_address_and_back_at_the_old_one(style: str) -> None:
    with Pair() as hosts:
        client, ports = hosts.client(style)
        mobile, peer = hosts.movers()
        here, there = entries(*ports)
        hosts.steer(NEW)
        client.goes_on()
        hand_over(mobile, peer, here, there)
        client.goes_on()
        assert mobile.where(here[0]) is peer.where(there[0]) is Place.NEW

        hosts.steer(OLD)
        hand_over(mobile, peer, [here[0].reversed], [there[0].reversed])
        client.goes_on()
        assert mobile.where(here[0]) is peer.where(there[0]) is Place.OLD
        client.end()
        assert hosts.resets() == 0


def test_a_program_that_waits_finds_the_connection_alive_when_it_goes_on() -> None:
    with Pair() as hosts:
        client, ports = hosts.client("idle")
        hosts.steer(NEW)
        hand_over(*hosts.movers(), *entries(*ports))
        client.end()
        assert hosts.resets() == 0

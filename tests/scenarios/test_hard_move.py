"""A hard move: the old address and the path to it are gone before the new one is there.

While no address is usable, UDP packets are lost, as they must be. What is shown is that nothing else is: of what
the mobile host sends, nothing from the moment that its carrier is up; of what is sent to it, nothing from the moment
that the correspondent knows the new address and that it is proven; and nothing while, after that, the sockets
themselves get the new address.
"""

import time

import pytest

from lab.host import Host
from lab.topology import Lab
from lab.traffic import UdpDirection
from scenarios.native import Native
from scenarios.scenario import Story, log_time, start

pytestmark = pytest.mark.lab

ON_THE_WAY = 0.05
"""Seconds that a packet may have been on its way when the path was cut."""


@pytest.mark.parametrize("gap", [0.5, 5.0])
def test_only_what_nobody_could_deliver_is_lost(lab: Lab, gap: float) -> None:
    story = start(lab)
    mix = story.traffic()
    native = Native(story)

    cut = time.monotonic()
    lab.mobile.link_down("net-a")
    back = lab.mobile.move_to("net-b", gap=gap).ended
    story.wait_moved()
    print(f"{len(native)} sockets at the new address {native.wait():.1f} s after the filters")
    result = mix.stop()

    assert result.udp is not None
    for name, direction, host, step in (
        ("up", result.udp.up, lab.mobile, "deprecated"),
        ("down", result.udp.down, lab.correspondent, "proven"),
    ):
        carried = carrier_applied(story, host, step)
        print(f"{name}: no address for {back - cut:.3f} s, carried {carried - back:.3f} s later: {direction}")
        assert_lost_only_between(direction, cut - ON_THE_WAY, carried)
    lab.mobile.link_up("net-a")
    story.finish()


def carrier_applied(story: Story, host: Host, step: str) -> float:
    """When the carrier of a host was up: it is, when this step is logged."""
    return log_time(story.wait_step(step, host))


def assert_lost_only_between(direction: UdpDirection, began: float, ended: float) -> None:
    outside = direction.lost_outside(began, ended)
    assert not outside, f"{len(outside)} lost outside {began:.3f} - {ended:.3f}: {outside[:3]} … {outside[-3:]}"

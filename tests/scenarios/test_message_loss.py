"""Moves while messages of the controllers are lost, doubled and overtaken.

Only the control channel is hit where one message is meant: its CHILD_SA is known by its SPI, also inside the carrier.
TCP goes on all the while, and every byte of it is compared at the end.
"""

from collections.abc import Callable
from typing import Any

import pytest

from lab.addressing import Family
from lab.ike_config import CONTROL
from lab.network import Match
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.native import Native
from scenarios.scenario import Story, start

pytestmark = pytest.mark.lab

SLOW = {"timing": {"first_retransmit": "400ms"}}
"""Time enough between two transmissions to let one be lost and the next pass."""
PATIENCE = 90.0


def control_sa(lab: Lab) -> tuple[Match, Match]:
    """Packets of the newest control CHILD_SA: from the mobile host, and to it."""
    newest = max((sa for sa in lab.mobile.charon.associations() if sa.child == CONTROL), key=lambda sa: sa.ike_id)
    return Match(spi=newest.spi_out), Match(spi=newest.spi_in)


def received(lab: Lab, host: str, message: str) -> int:
    """Messages of a kind that a host's controller has received so far."""
    (found,) = [one for one in lab.hosts if one.name == host]
    return len(found.log_events("message_received", message=message))


def settled(story: Story, count: int) -> None:
    """The `count`-th move of the mobile host is through on both hosts, its old address released, and both say so."""
    story.wait_step("filters", story.lab.mobile, count, PATIENCE)
    story.wait_step("filters", story.lab.correspondent, count, PATIENCE)
    for host in story.lab.hosts:
        wait_for(
            lambda host=host: all(map(_content, host.status()["peers"])),
            PATIENCE,
            f"{host.name}: its controller is content",
            host.controller.log_tail,
            poll=0.3,
        )


def _content(peer: dict[str, Any]) -> bool:
    if not peer["managed"] or peer["problem"] or not peer["own"] or not peer["peer"]:
        return False
    left = [*peer["own"]["deprecated"], *peer["peer"]["deprecated"]]
    return peer["proven"] == peer["peer"]["current"] and not left


@pytest.mark.parametrize("family", [Family.IPV4, Family.IPV6], ids=["ipv4", "ipv6"])
def test_lost_doubled_and_overtaken_messages(make_lab: Callable[..., Lab], family: Family) -> None:
    """One story of four moves: the change message lost once; three times; the acknowledgment lost; both disturbed."""
    lab = make_lab(family=family)
    lab.start()
    story = start(lab, config=SLOW)
    mix = story.traffic(bulk_rate=30_000, udp_rate=0)
    native = Native(story)

    for count, (network, losses) in enumerate((("net-b", 1), ("net-c", 3)), 1):
        to_peer, _ = control_sa(lab)
        lost = lab.router.drop(network, "up", to_peer)
        before = received(lab, "correspondent", "AddressChange")
        lab.mobile.move_to(network)
        lost.wait_hits(losses, 30)
        assert received(lab, "correspondent", "AddressChange") == before
        print(f"{network}: {lost.hits} change messages lost")
        lost.remove()
        settled(story, count)

    _, to_mobile = control_sa(lab)
    lost = lab.router.drop("net-a", "down", to_mobile)
    accepted = len(lab.correspondent.log_events("address_change_accepted"))
    before = received(lab, "mobile", "Acknowledgment")
    lab.mobile.move_to("net-a", soft=True, overlap=0.2)
    lost.wait_hits(2, 30)
    assert received(lab, "mobile", "Acknowledgment") == before
    assert len(lab.correspondent.log_events("address_change_accepted")) == accepted + 1
    lost.remove()
    settled(story, 3)

    for network in ("net-b", "net-d"):
        lab.router.netem(network, delay_ms=30, jitter_ms=20, duplicate=40, reorder=40)
    lab.mobile.move_to("net-b")
    settled(story, 4)
    print(f"delayed, doubled, overtaken: at the new address {native.wait():.1f} s after the filters")
    for network in ("net-b", "net-d"):
        lab.router.netem(network)

    mix.stop()
    story.finish()


def test_thirty_percent_loss_both_ways(make_lab: Callable[..., Lab]) -> None:
    """Everything is hit: IKE, the control channel and the data. It takes longer, and ends in the same state."""
    lab = make_lab()
    lab.start()
    story = start(lab)
    mix = story.traffic(bulk_rate=10_000, udp_rate=0)
    native = Native(story)

    lab.router.netem("net-b", loss=30)
    lab.mobile.move_to("net-b")
    settled(story, 1)
    print(f"30 % loss: at the new address {native.wait(PATIENCE):.1f} s after the filters")
    lab.router.netem("net-b")

    mix.stop()
    story.finish()

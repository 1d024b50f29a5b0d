"""A correspondent without swanroam: nothing is worse than without us, `status` says how it is, and when a controller
comes there later the two begin to work together by themselves.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from lab.host import Host
from lab.ike_config import CONTROL, DATA
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios import remains
from scenarios.scenario import GRACE, Story

pytestmark = pytest.mark.lab

CONFIG = {"timing": {"give_up": "2s"}, "defaults": {"grace": GRACE}}
AWAY = 2.0
"""Seconds in the other network."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What applications and a capture see of a move away and back, and of a move that an administrator helps."""

    arrived_while_away: bool
    errors_while_away: tuple[str, ...]
    clear_while_away: bool
    new_connection: str
    """Source address of a connection made at the new address, once there is an IKE_SA there."""


def outcome_of_moves(lab: Lab) -> Outcome:
    """UDP and TCP from the first address, away and back; then a new IKE_SA and a new connection elsewhere."""
    mobile, correspondent = lab.mobile, lab.correspondent
    bulk = lab.traffic.tcp_bulk(mobile, correspondent, rate=20_000)
    udp = lab.traffic.udp_stream(mobile, correspondent, rate=50)
    udp.wait_received(25)
    with lab.capturing() as capture:
        mobile.move_to("net-b")
        before = udp.received()
        time.sleep(AWAY)
        arrived = udp.received() != before
        mobile.move_to("net-a")
    udp.wait_received(25)
    errors = udp.stop().up.errors
    bulk.stop().check()

    mobile.swanctl("--terminate", "--ike", f"peer-{correspondent.name}")
    mobile.move_to("net-b")
    lab.establish(mobile, correspondent)
    new = lab.traffic.tcp_idle(mobile, correspondent)
    new.use()
    new.stop().check()
    return Outcome(arrived, tuple(errors), bool(capture.clear_packets()), new.local_address)


def charons_without_control_channel(make_lab: Callable[..., Lab]) -> Lab:
    """The correspondent has an ordinary strongSwan connection, without the control child."""
    lab = make_lab()
    file = lab.correspondent.charon.swanctl_directory / "swanctl.conf"
    complete = file.read_text(encoding="utf-8")
    file.write_text(re.sub(rf"\b{CONTROL} \{{[^}}]*\}}", "", complete), encoding="utf-8")
    for host in lab.hosts:
        host.charon.start()
    lab.establish(lab.mobile, lab.correspondent, (DATA,))
    file.write_text(complete, encoding="utf-8")  # as it will be when it is loaded again
    return lab


def status_text(host: Host) -> str:
    done = host.controller.command("status", "--config", str(host.controller.config_file))
    assert done.status == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
    print(done.stdout)
    return " ".join(done.stdout.split())


def wait_state(host: Host, state: str) -> None:
    wait_for(lambda: host.status()["peers"][0]["state"] == state, 30, f"{host.name}: {state}", host.controller.log_tail)


def assert_leaves_everything_alone(host: Host) -> None:
    """Its controller manages nothing: no guard between the hosts' addresses, nothing in the carrier."""
    (peer,) = host.status()["peers"]
    assert not peer["managed"]
    assert peer["carried"] == []
    blocked = re.findall(r"src (\S+) dst (\S+) .*\n\s+dir \w+ action block", host.ip("xfrm policy show nosock"))
    assert all("fd53:7761:6e72::/48" in selector for selector in blocked), blocked
    assert "encap" not in host.ip("route show table all")


def test_nothing_is_worse_and_a_controller_that_comes_later_is_found(make_lab: Callable[..., Lab]) -> None:
    plain = make_lab()
    plain.start()
    without = outcome_of_moves(plain)
    plain.close()
    print(f"without swanroam: {without}")

    lab = charons_without_control_channel(make_lab)
    mobile = lab.mobile
    mobile.start_controller(CONFIG)

    wait_state(mobile, "not managed: no control CHILD_SA")
    text = status_text(mobile)
    assert text.startswith("attention needed: 1 peer")
    assert "swanctl --initiate --ike peer-correspondent --child swanroam" in text
    assert "a change of address ends the connections, as it would without swanroam here" in text
    refused = mobile.controller.command("move", str(mobile.address), "--config", str(mobile.controller.config_file))
    assert refused.status == 1
    assert "has not answered yet: is swanroam running there?" in refused.stderr

    lab.correspondent.charon.load()
    lab.establish(mobile, lab.correspondent, (CONTROL,))
    wait_for(lambda: mobile.status()["problems"], 30, "the mobile host's controller has given up", poll=0.3)
    text = status_text(mobile)
    assert "correspondent: not managed: its controller has not answered" in text
    assert "is swanroam running there? Without it a change of address ends the connections" in text
    assert mobile.controller.command("status", "--check", "--config", str(mobile.controller.config_file)).status == 9

    fresh, began_in = mobile.snapshot(), {host.name: host.network for host in lab.hosts}
    assert_leaves_everything_alone(mobile)
    assert outcome_of_moves(lab) == without
    assert_leaves_everything_alone(mobile)
    remains.assert_same(mobile, fresh, began_in, "before it moved")

    story = Story(lab, lab.start_capture(), {}, {host.name: host.network for host in lab.hosts})
    lab.correspondent.start_controller(CONFIG)
    story.wait_registered()
    wait_state(mobile, "protected and ready to move")
    assert status_text(mobile).startswith("all is fine")
    story.note_fresh()
    mix = story.traffic(bulk_rate=20_000, udp_rate=50)
    mobile.move_to("net-c")
    story.wait_moved()
    mix.stop()
    story.wait_rest()
    story.assert_nothing_left()
    story.assert_nothing_in_clear()

"""What a host may come into while it moves: no file descriptors, a clock that jumps, addresses that flap."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.addressing import Family
from lab.clock import YEARS, clock_jumps
from lab.host import Host
from lab.ike_config import CONTROL, DATA
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.agreement import kernel_states
from scenarios.native import Native
from scenarios.scenario import start

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"])]

LIGHT = {"bulk_rate": 20_000, "udp_rate": 50}
EXPIRY = 1.5
"""Seconds after which the kernel has looked whether SAs that are new have expired."""


@contextmanager
def no_new_descriptors(host: Host) -> Iterator[None]:
    """The host's controller gets none (EMFILE); those that it has work."""
    pid = host.controller.pid
    assert pid is not None
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("which", ["mobile", "correspondent"])
def test_out_of_descriptors_during_a_move(lab: Lab, which: str) -> None:
    """Connections go by the carrier until there are some again; then the move is completed."""
    story = start(lab)
    mix = story.traffic(**LIGHT)
    native = Native(story)
    host: Host = getattr(lab, which)
    with no_new_descriptors(host):
        lab.mobile.move_to("net-b")
        story.wait_step("proven")
        mix.wait_passing()
        host.controller.wait_event("journal_not_written")
        assert host.controller.running
    native.wait()
    host.controller.wait_event("journal_written")
    mix.stop()
    story.finish()


@pytest.mark.guest
def test_the_clock_jumps_ten_years_during_moves(lab: Lab) -> None:
    """Forward and back again as soon as the peer has answered, then the other way round."""
    story = start(lab)
    mix = story.traffic(**LIGHT)
    native = Native(story)
    for network, seconds in (("net-b", YEARS), ("net-c", -YEARS)):
        began = time.monotonic()
        count = len(lab.mobile.log_events("handover_step_finished", step="acknowledged"))
        lab.mobile.move_to(network)
        story.wait_step("acknowledged", count=count + 1)
        with clock_jumps(seconds):
            native.wait()
            mix.wait_passing()
            print(f"{network}, {seconds:.0f} s: all at the new address {time.monotonic() - began:.1f} s later")
        mix.wait_passing()
    mix.stop()
    story.finish()


@pytest.mark.guest
@pytest.mark.parametrize("child", [DATA, CONTROL])
def test_sas_that_are_new_when_the_clock_jumps_expire_and_are_made_anew(lab: Lab, child: str) -> None:
    """Where both charons hear of it at once, each makes the CHILD_SA; it is not there twice for long."""
    story = start(lab)
    mix = story.traffic(**LIGHT)
    expired = f"closing expired CHILD_SA {child}"  # by whose charon hears of it first; a slow machine may be too late
    while not any(host.charon.log_lines(expired) for host in lab.hosts):
        before = kernel_states(lab.mobile)
        lab.mobile.swanctl("--rekey", "--child", child)
        wait_for(lambda before=before: kernel_states(lab.mobile) - before, 20, f"{child} has new SAs", poll=0.02)
        time.sleep(0.2)
        with clock_jumps(YEARS):
            time.sleep(EXPIRY)
            mix.wait_passing()
        story.wait_rest()
    print(f"ended: {[record['detail'] for host in lab.hosts for record in host.log_events('double_child_sa_ended')]}")
    mix.wait_passing()
    mix.stop()
    story.finish()


def test_addresses_flap_ten_times_a_second(lab: Lab) -> None:
    """First the same address goes and comes, which is no move; then two networks take turns, and one stays."""
    story = start(lab)
    mix = story.traffic(**LIGHT)
    native = Native(story)
    mobile = lab.mobile
    flap(mobile, ["net-a"] * 20)
    mix.wait_passing()
    assert not mobile.log_events("handover_started")

    flap(mobile, ["net-b", "net-a"] * 10 + ["net-b"])
    story.wait_arrived()
    native.wait()
    mix.wait_passing()
    accepted = len(lab.correspondent.log_events("address_change_accepted"))
    began = len(mobile.log_events("handover_started"))
    print(f"21 changes of address: {began} handovers, the peer has followed {accepted} of them")
    assert began <= 21
    mix.stop()
    story.finish()


def flap(host: Host, networks: list[str]) -> None:
    """The host goes from one to the next, ten times a second at most."""
    for network in networks:
        host.move_to(network)
        time.sleep(0.1)

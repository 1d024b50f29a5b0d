"""Daemons that stop, are killed and start again, at rest and while connections need the carrier.

What connections need stays in the kernel while no controller runs; the next one takes it over, and in the end nothing
is left. Without a next one `swanroam cleanup` takes everything away.
"""

from collections.abc import Callable

import pytest

from lab.addressing import Family
from lab.host import Host
from lab.ike_config import CONTROL, DATA
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios import remains
from scenarios.scenario import GRACE, Mix, Story, start

pytestmark = pytest.mark.lab

LIGHT = {"bulk_rate": 20_000, "udp_rate": 50}
"""Traffic that leaves a slow machine time for starting daemons."""
CONFIG = {"defaults": {"grace": GRACE, "transport": "keep"}}


def stop(host: Host) -> None:
    assert host.stop_controller() == 0


def kill(host: Host) -> None:
    host.kill_controller()


def restart(story: Story, host: Host, end: Callable[[Host], None], mix: Mix | None = None) -> None:
    """End the host's controller, see that traffic goes on without it, start it again, see that it has taken over."""
    end(host)
    if mix is not None:
        flows(mix)
    host.start_controller(CONFIG)
    if mix is not None:
        flows(mix)
    story.wait_ready(host)


def status_text(host: Host) -> str:
    """What `swanroam status` prints, and so does the test."""
    text = host.controller.command("status", "--config", str(host.controller.config_file)).stdout
    print(text)
    return text


def flows(mix: Mix) -> None:
    """The streams of the mix move, both ways."""
    assert mix.udp is not None
    mix.udp.wait_received(25, timeout=20)


def with_daemons(make_lab: Callable[..., Lab], family: Family) -> Lab:
    lab = make_lab(family=family)
    lab.start()
    return lab


@pytest.mark.parametrize(("end", "family"), [(stop, Family.IPV4), (kill, Family.IPV6)], ids=["stop-ipv4", "kill-ipv6"])
def test_controllers_take_over_what_connections_need(
    make_lab: Callable[..., Lab], end: Callable[[Host], None], family: Family
) -> None:
    """On the carrier first, at rest afterwards; first the mobile host's controller, then the correspondent's."""
    lab = with_daemons(make_lab, family)
    story = start(lab, config=CONFIG)
    mix = story.traffic(**LIGHT)
    lab.mobile.move_to("net-b")
    story.wait_moved()
    for host in lab.hosts:
        restart(story, host, end, mix)
        if end is stop:
            (said,) = host.log_events("stopped")
            assert "stay" in said["kernel"], said
    assert "still using" in status_text(lab.mobile)

    lab.mobile.move_to("net-c")
    story.wait_step("filters", count=2)
    flows(mix)
    mix.stop()
    story.wait_rest()

    here = {host.name: host.network for host in lab.hosts}
    for host in lab.hosts:
        before = host.snapshot()
        restart(story, host, end)
        story.wait_rest()
        remains.assert_same(host, before, here, "before its controller ended")
    story.note_descriptors()
    story.finish()


def test_cleanup_removes_what_killed_controllers_left(make_lab: Callable[..., Lab]) -> None:
    lab = with_daemons(make_lab, Family.IPV4)
    story = start(lab, config=CONFIG)
    mix = story.traffic(**LIGHT)
    lab.mobile.move_to("net-b")
    story.wait_moved()
    for host in lab.hosts:
        kill(host)
    flows(mix)
    for program in (mix.bulk.client, mix.bulk.server, mix.idle.client, mix.idle.server):
        program.kill()
    assert mix.udp is not None
    mix.udp.stop()

    for host in lab.hosts:
        done = host.controller.command("cleanup", "--config", str(host.controller.config_file))
        assert (done.status, done.stderr) == (0, "")
        print(done.stdout)
        assert all(line.startswith("removed ") for line in done.stdout.splitlines())
        again = host.controller.command("cleanup", "--config", str(host.controller.config_file))
        assert (again.status, again.stdout) == (0, "nothing was left\n")
        assert_nothing_of_ours(host)
    assert str(lab.mobile.address_in("net-a")) not in lab.mobile.ip("addr show")
    story.assert_nothing_in_clear()


def assert_nothing_of_ours(host: Host) -> None:
    """By the marks by which our objects are known. charon's policies and SAs, also those of the old address, stay."""
    routing, _, ipsec = host.snapshot().partition("--- policies")
    assert not [mark for mark in ("swanroam", "5353", "proto 83", "fd53:") if mark in routing], routing
    assert "action block" not in ipsec
    assert "proto ipencap" not in ipsec
    assert "mode transport" in ipsec


def test_a_charon_that_comes_back_is_worked_with_again(make_lab: Callable[..., Lab]) -> None:
    lab = with_daemons(make_lab, Family.IPV4)
    story = start(lab)

    for host, other in ((lab.mobile, lab.correspondent), (lab.correspondent, lab.mobile)):
        host.charon.stop()
        for one, said in ((host, "start strongSwan (systemctl start strongswan)"), (other, "its IKE_SA has gone")):
            wait_for(lambda one=one: one.status()["problems"], 20, f"{one.name}: status says what is wrong")
            text = status_text(one)
            assert text.startswith("attention needed")
            assert said in " ".join(text.split())
        for one, its_peer in ((host, other), (other, host)):
            # Neither SAs nor policies of charon's are left: only guards are between this and the network.
            one.run(["ping", "-n", "-c", "2", "-i", "0.1", "-W", "0.2", str(its_peer.address)], check=False)
        host.charon.start()
        lab.establish(lab.mobile, lab.correspondent, (DATA, CONTROL))
        story.wait_rest()

    mix = story.traffic(**LIGHT)
    lab.mobile.move_to("net-b")
    story.wait_moved()
    mix.stop()
    story.finish()

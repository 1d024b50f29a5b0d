"""Method migrate: the SAs that there are go to the new addresses, keys kept, on both hosts.

What stays on an old address travels clear in the carrier afterwards, which is itself inside ESP. While one host has
moved its SAs and the other has not, neither may send what the other could not read, and nothing may leave in clear.
"""

import os
import signal
from collections.abc import Callable

import pytest

from lab.addressing import Family, IPAddress
from lab.host import Host
from lab.ike_config import CONTROL, DATA
from lab.network import Match
from lab.topology import Lab
from scenarios.agreement import contradictions, kernel_states, rekey_all
from scenarios.scenario import GRACE, ON_THE_CARRIER, Mix, Story, start
from swanroam.protocol.codec import encode
from swanroam.protocol.messages import HANDOVER_SIZE, FiltersReply, FiltersRequest, Message, Stage

pytestmark = pytest.mark.lab

MIGRATE = "migrate"
LIGHT = {"bulk_rate": 20_000, "udp_rate": 50}
"""Traffic that leaves a slow machine time for starting daemons."""
REQUEST = FiltersRequest(1, bytes(HANDOVER_SIZE), Stage.MOVE)
REPLY = FiltersReply(1, bytes(HANDOVER_SIZE), Stage.MOVE, "")


def with_daemons(make_lab: Callable[..., Lab], family: Family = Family.IPV4) -> Lab:
    lab = make_lab(family=family)
    lab.start()
    return lab


def ping_by(host: Host, device: str, other: IPAddress) -> None:
    """Let a program that is bound to a device call another host. Whether that answers is not the question."""
    host.run(["ping", "-n", "-c", "2", "-i", "0.1", "-W", "0.2", "-I", device, str(other)], check=False)


def print_windows(mix: Mix) -> None:
    """End the traffic; say for how long each host could not send what it was asked to."""
    result = mix.stop()
    assert result.udp is not None
    for name, way in (("mobile", result.udp.up), ("correspondent", result.udp.down)):
        refused = [-sent for _, sent in way.refused]
        lost = len(way.lost) - len(refused)
        window = max(refused) - min(refused) if refused else 0.0
        print(f"{name}: {len(refused)} of {way.sent} UDP packets refused within {window * 1000:.0f} ms, {lost} lost")


def test_soft_and_hard_move(lab: Lab) -> None:
    story = start(lab, method=MIGRATE, grace="4s")  # the old address is used by hand before it is released
    old = lab.mobile.address
    mix = story.traffic()
    lab.mobile.move_to("net-b", soft=True)
    story.wait_arrived()
    ping_by(lab.correspondent, lab.correspondent.network, old)  # a socket that is bound to another device
    mix.wait_passing()
    print_windows(mix)
    story.wait_rest()

    mix = story.traffic()
    lab.mobile.move_to("net-c", gap=0.5)
    story.wait_arrived()
    mix.wait_passing()
    print_windows(mix)
    story.finish()
    story.assert_esp_was_captured()


def test_back_within_grace_and_moves_in_a_row(lab: Lab) -> None:
    """A -> B -> A, then B, C and B again in one go. Everything is rekeyed while connections are on the carrier."""
    story = start(lab, method=MIGRATE, grace="8s", config=ON_THE_CARRIER)
    mix = story.traffic(**LIGHT)

    lab.mobile.move_to("net-b", soft=True)
    story.wait_arrived()
    mix.wait_passing()
    rekey_all(lab.mobile)
    rekey_all(lab.correspondent)
    mix.wait_passing()
    lab.mobile.move_to("net-a")
    story.wait_arrived()
    mix.wait_passing()
    # What was kept for this address when it was left has been rekeyed since.
    received = {spi for _, destination, spi, *_ in kernel_states(lab.mobile) if destination == str(lab.mobile.address)}
    assert received == {child.spi_in for child in lab.mobile.charon.associations()}

    for network in ("net-b", "net-c", "net-b"):
        story.begin_move(network)
    story.wait_arrived()
    mix.wait_passing()
    rekey_all(lab.mobile)
    mix.wait_passing()

    mix.stop()
    story.finish()


def test_what_was_left_is_kept_for_each_address(make_lab: Callable[..., Lab]) -> None:
    """Two moves within grace: the peer, which may not have followed yet, can still reach this host by all three."""
    lab = with_daemons(make_lab, Family.IPV6)
    mobile = lab.mobile
    story = start(lab, method=MIGRATE, grace="20s", config=ON_THE_CARRIER)
    mix = story.traffic(**LIGHT)
    addresses = {str(mobile.address)}
    for network in ("net-b", "net-c"):
        mobile.move_to(network, soft=True)
        story.wait_arrived()
        addresses.add(str(mobile.address))
    received = kernel_states(mobile)
    for child in mobile.charon.associations():
        assert {destination for _, destination, of, *_ in received if of == child.spi_in} == addresses, child.child
    mix.wait_passing()
    mix.stop()
    story.finish()


def size(message: Message) -> int:
    """Octets of the ESP packet with a control message: RFC 4303 with AES-GCM-16 (RFC 4106), in IPv4, IPv6 inside."""
    inner = 40 + 8 + len(encode(message))
    return 20 + 8 + 8 + (inner + 2 + 3) // 4 * 4 + 16


def test_lost_messages_and_failures(make_lab: Callable[..., Lab]) -> None:
    """Lost: the request, its answer, the last answer. Then charon hangs, then there is nothing to be moved."""
    lab = with_daemons(make_lab)
    mobile, correspondent = lab.mobile, lab.correspondent
    story = start(lab, method=MIGRATE, config={"timing": {"first_retransmit": "400ms"}})
    mix = story.traffic(**LIGHT)

    for network, direction, message, way in (
        ("net-b", "up", REQUEST, "ipip"),
        ("net-c", "down", REPLY, "ipip"),
        ("net-a", "down", REPLY, "esp"),
    ):
        (control,) = [sa for sa in mobile.charon.associations() if sa.child == CONTROL]
        spi = control.spi_out if direction == "up" else control.spi_in
        lost = lab.router.drop(network, direction, Match(protocol=way, spi=spi, length=size(message)))
        mobile.move_to(network)
        lost.wait_hits(1, 30)
        lost.remove()
        story.wait_arrived()
        mix.wait_passing()

    story.wait_transport()  # a socket whose peer has moved on would wait for charon as well
    assert correspondent.charon.process is not None
    os.kill(correspondent.charon.process.pid, signal.SIGSTOP)
    try:
        mobile.move_to("net-b")
        said = mobile.controller.wait_event("filters_failed", 60)
        mix.wait_passing()
    finally:
        os.kill(correspondent.charon.process.pid, signal.SIGCONT)
    assert "the peer could not move its filters" in said["detail"]
    story.wait_arrived()
    mix.wait_passing()

    mobile.swanctl("--terminate", "--child", DATA)
    mobile.move_to("net-c")
    failed = mobile.controller.wait_event("filters_failed", 60, count=len(mobile.log_events("filters_failed")) + 1)
    assert f"no CHILD_SA {DATA}" in failed["detail"]
    mobile.charon.initiate(f"peer-{correspondent.name}", DATA)
    story.wait_arrived()
    mix.wait_passing()

    mix.stop()
    story.finish()


def restart(story: Story, host: Host, method: str, transport: str = "move") -> None:
    """Kill a controller and start it anew; returns when it has taken over."""
    host.kill_controller()
    host.start_controller({"defaults": {"grace": GRACE, "filters": method, "transport": transport}})
    story.wait_ready(host)


def test_killed_controllers_take_over_moved_filters(make_lab: Callable[..., Lab]) -> None:
    lab = with_daemons(make_lab, Family.IPV6)
    story = start(lab, method=MIGRATE, config=ON_THE_CARRIER)
    mix = story.traffic(**LIGHT)
    lab.mobile.move_to("net-b")
    story.wait_arrived()
    for host in lab.hosts:
        host.kill_controller()
        mix.wait_passing()
        restart(story, host, MIGRATE, "keep")
        mix.wait_passing()
    lab.mobile.move_to("net-c")
    story.wait_arrived()
    mix.wait_passing()
    mix.stop()
    story.wait_rest()
    story.note_descriptors()
    story.finish()


def test_cleanup_removes_what_was_kept(make_lab: Callable[..., Lab]) -> None:
    lab = with_daemons(make_lab)
    story = start(lab, method=MIGRATE, config=ON_THE_CARRIER)
    mix = story.traffic(**LIGHT)
    lab.mobile.move_to("net-b")
    story.wait_arrived()
    for host in lab.hosts:
        host.kill_controller()
    for program in (mix.bulk.client, mix.bulk.server, mix.idle.client, mix.idle.server):
        program.kill()
    assert mix.udp is not None
    mix.udp.stop()
    for host in lab.hosts:
        done = host.controller.command("cleanup", "--config", str(host.controller.config_file))
        assert (done.status, done.stderr) == (0, "")
        assert ("removed SA" in done.stdout) == (host is lab.mobile), done.stdout
    story.assert_nothing_in_clear()


@pytest.mark.parametrize(
    ("ours", "theirs"), [(MIGRATE, "renegotiate"), ("renegotiate", MIGRATE)], ids=["we-migrate", "they-migrate"]
)
def test_the_host_that_moves_decides(make_lab: Callable[..., Lab], ours: str, theirs: str) -> None:
    lab = with_daemons(make_lab)
    story = start(lab, method=ours)
    restart(story, lab.correspondent, theirs)
    story.note_fresh()
    before = {sa.spi_in for sa in lab.mobile.charon.associations()}
    mix = story.traffic(**LIGHT)

    lab.mobile.move_to("net-b", soft=True)
    story.wait_arrived()
    mix.wait_passing()
    mix.stop()
    story.wait_rest()

    kept = {sa.spi_in for sa in lab.mobile.charon.associations()} == before
    assert kept == (ours == MIGRATE)
    assert not contradictions(lab.correspondent)
    story.finish()

"""The lab keeps what it promises: what it shows is there, and what it must not miss it does not miss."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lab import snapshot
from lab.addressing import NETWORKS, Family
from lab.analysis import Kind
from lab.capture import UNPROTECTED
from lab.host import Host
from lab.ike_config import CONTROL, DATA
from lab.namespace import command
from lab.network import Match
from lab.topology import Lab
from scenarios.agreement import rekey_all

pytestmark = pytest.mark.lab


def ping(lab: Lab, count: int = 3, check: bool = True, interval: float = 0.05) -> str:
    argv = ["ping", "-c", str(count), "-i", str(interval), "-W", "2", str(lab.correspondent.address)]
    return lab.mobile.run(argv, check=check).stdout


def test_two_charons_have_a_transport_and_a_control_child_and_traffic_goes_as_esp_only(lab: Lab) -> None:
    for host, peer in ((lab.mobile, lab.correspondent), (lab.correspondent, lab.mobile)):
        children = {sa.child: sa for sa in host.charon.associations()}
        assert set(children) == {DATA, CONTROL}
        assert children[DATA].mode == "TRANSPORT"
        assert children[CONTROL].mode == "TUNNEL"
        assert children[CONTROL].local_ts == (f"{host.inner_address}/128",)
        assert children[CONTROL].remote_ts == (f"{peer.inner_address}/128",)
        assert str(host.address) == children[DATA].local

    with lab.capturing() as capture:
        ping(lab)

    assert not capture.clear_packets()
    assert capture.counts()[Kind.ESP] == 6
    assert {seen.leg for seen in capture.packets() if seen.kind is Kind.ESP} == {"net-a", "net-d"}


def test_a_packet_before_ipsec_is_up_is_seen_in_clear(make_lab: Callable[..., Lab], family: Family) -> None:
    lab = make_lab(family=family)

    with lab.capturing() as capture:
        ping(lab, count=1)

    clear = capture.clear_packets()
    assert len(clear) == 2
    assert f"{lab.mobile.address} > {lab.correspondent.address} ICMP" in str(clear[0])


def test_a_capture_of_what_is_unprotected_leaves_out_esp_and_nothing_else(lab: Lab) -> None:
    capture = lab.start_capture(UNPROTECTED)
    ping(lab)
    rekey_all(lab.mobile)
    capture.stop()

    assert capture.counts()[Kind.IKE]
    assert not capture.counts()[Kind.ESP]


@pytest.mark.parametrize("captured", ["", UNPROTECTED], ids=["all", "unprotected"])
def test_a_clear_packet_inside_bare_ip_in_ip_is_seen(
    make_lab: Callable[..., Lab], family: Family, captured: str
) -> None:
    """Outer header from net-b to the correspondent, inner from net-a: what a carrier carries, without ESP."""
    lab = make_lab(family=family)
    lab.mobile.add_address("net-b")
    kind = "ipip" if family is Family.IPV4 else "ip6tnl mode ip6ip6 encaplimit none"
    outer, inner = lab.mobile.address_in("net-b"), lab.mobile.address_in("net-a")
    peer = lab.correspondent.address
    lab.mobile.ip(
        f"link add tunnel type {kind} local {outer} remote {peer}",
        "link set tunnel up",
        f"route add {peer} dev tunnel table 77",
    )
    lab.mobile.ip(f"-{family.value} rule add from {inner} lookup 77")

    capture = lab.start_capture(captured)
    lab.mobile.run(["ping", "-c", "1", "-W", "1", "-I", str(inner), str(peer)], check=False)
    capture.stop()

    inside = [seen for seen in capture.clear_packets() if seen.kind is Kind.CLEAR_IN_IPIP]
    assert inside
    assert f"{outer} > {peer} IP-in-IP [{inner} > {peer} ICMP" in str(inside[0])


def test_loss_and_delay_set_on_a_leg_are_there_and_go_again(lab: Lab) -> None:
    lab.router.netem("net-a", loss=100, direction="up")
    assert "100% packet loss" in ping(lab, count=2, check=False)

    lab.router.netem("net-a", delay_ms=40)
    reply_ms = float(ping(lab, count=2).rpartition("/")[0].split(" = ")[1].split("/")[0])
    assert reply_ms >= 80

    lab.router.netem("net-a", loss=30)
    statistics = ping(lab, count=60, check=False, interval=0.02)
    received = int(statistics.split(" received")[0].rpartition(" ")[2])
    assert 8 < received < 50  # about half come through twice; the chance to miss is below 10^-5

    lab.router.netem("net-a")
    assert " 0% packet loss" in ping(lab, count=5)


def test_packets_of_one_sa_can_be_dropped_and_counted(lab: Lab) -> None:
    (data,) = [sa for sa in lab.mobile.charon.associations() if sa.child == DATA]
    rule = lab.router.drop("net-a", "up", Match(spi=data.spi_out))

    assert "100% packet loss" in ping(lab, count=2, check=False)
    rule.wait_hits(2)
    rule.remove()

    assert " 0% packet loss" in ping(lab)


def test_a_blocked_leg_lets_nothing_through(lab: Lab) -> None:
    with lab.router.blocked("net-d"):
        assert "100% packet loss" in ping(lab, count=2, check=False)
    assert " 0% packet loss" in ping(lab)


def test_a_host_moves_hard_and_soft(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    mobile = lab.mobile

    mobile.move_to("net-b")
    assert "10.2.2.2" in mobile.ip("route get 10.3.3.2")
    assert "10.1.1.2" not in mobile.ip("addr show")
    assert "2001:db8:a::2" not in mobile.ip("addr show")

    mobile.move_to("net-c", soft=True, overlap=0.1)
    assert "10.4.4.2" in mobile.ip("route get 10.3.3.2")
    assert "2001:db8:c::2" in mobile.ip("route get 2001:db8:d::2")
    assert "10.2.2.2" not in mobile.ip("addr show")

    mobile.move_to("net-a", gap=0.1)
    assert str(NETWORKS["net-a"].router(Family.IPV4)) in mobile.ip("route get 10.3.3.2")


def test_a_snapshot_equals_itself_after_a_move_away_and_back(lab: Lab) -> None:
    before = lab.mobile.snapshot()
    ping(lab)

    lab.mobile.add_address("net-b")
    assert "10.2.2.2" in lab.mobile.snapshot()
    lab.mobile.remove_address("net-b")

    assert lab.mobile.snapshot() == before
    assert "proto esp spi * reqid * mode transport" in before
    assert not [word for word in before.split() if word.startswith("0x") and len(word) > 34]


def test_controllers_start_answer_and_stop(lab: Lab) -> None:
    before = [host.snapshot() for host in lab.hosts]

    lab.start_controllers()

    assert lab.mobile.status()["identity"] == lab.mobile.identity
    assert lab.correspondent.log_events("started")
    assert lab.mobile.controller.command("--version").stdout.startswith("swanroam ")
    assert [host.stop_controller() for host in lab.hosts] == [0, 0]
    assert [snapshot.difference(*pair) for pair in zip(before, map(Host.snapshot, lab.hosts), strict=True)] == ["", ""]


def test_programs_run_clean_and_say_what_they_moved(lab: Lab) -> None:
    with lab.capturing() as capture:
        bulk = lab.traffic.tcp_bulk(lab.mobile, lab.correspondent, rate=200_000)
        requests = lab.traffic.tcp_requests(lab.mobile, lab.correspondent)
        idle = lab.traffic.tcp_idle(lab.mobile, lab.correspondent)
        udp = lab.traffic.udp_stream(lab.mobile, lab.correspondent, rate=100)
        idle.use()
        udp.wait_received(100)
        bulk_result, request_result, udp_result = bulk.stop(), requests.stop(), udp.stop()
        idle_result = idle.stop()

    assert bulk.local_address == str(lab.mobile.address)
    assert min(bulk_result.check().moved) > 0
    assert request_result.check().requests > 0
    assert idle_result.check().requests == 2
    assert not udp_result.up.lost + udp_result.down.lost, udp_result
    assert udp_result.up.received > 0
    assert udp_result.down.received > 0
    assert not capture.clear_packets()


def test_udp_at_a_thousand_packets_a_second_both_ways_loses_none(lab: Lab) -> None:
    with lab.capturing() as capture:
        udp = lab.traffic.udp_stream(lab.mobile, lab.correspondent, rate=1000)
        wanted = 3000
        udp.wait_received(wanted)
        result = udp.stop()

    assert not result.up.lost + result.down.lost, result
    assert result.up.received >= wanted
    assert capture.counts()[Kind.ESP] >= result.up.received + result.down.received


def test_lost_and_doubled_udp_packets_are_told(lab: Lab) -> None:
    lab.router.netem("net-a", loss=20, direction="up")
    lab.router.netem("net-d", duplicate=50, direction="down")
    udp = lab.traffic.udp_stream(lab.mobile, lab.correspondent, rate=200)
    udp.wait_received(200)
    result = udp.stop()

    assert result.up.lost
    assert all(result.up.lost[0][1] <= sent for _, sent in result.up.lost)
    assert result.up.received + len(result.up.lost) == result.up.sent
    assert not result.down.lost


def test_certificates_authenticate_as_well(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(authentication="certificate")
    lab.start()
    assert " 0% packet loss" in ping(lab)


def test_several_mobile_hosts_and_correspondents(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(mobiles=2, correspondents=2)
    lab.start()
    assert {sa.connection for sa in lab.correspondents[1].charon.associations()} == {"peer-mobile", "peer-mobile2"}


def test_a_closed_lab_leaves_no_namespace_process_or_file(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    lab.start()
    lab.traffic.udp_stream(lab.mobile, lab.correspondent, rate=10)
    names = [host.netns for host in lab.hosts]
    pids = [pid for host in lab.hosts for pid in host.pids()]
    assert len(pids) == 4

    lab.close()

    remaining = command(["ip", "netns", "list"]).stdout
    assert not [name for name in names if name in remaining]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not lab.directory.exists()

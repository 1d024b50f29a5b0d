"""A peer with good credentials and bad intentions: its controller is dead, and somebody speaks from its inner address.

It floods the correspondent while another mobile host moves, and it sends the correspondent's data to a third party.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from lab.addressing import NETWORKS
from lab.host import Host
from lab.namespace import Namespace
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.scenario import start
from swanroam.protocol.codec import encode
from swanroam.protocol.correspondent import PROOF_TIME
from swanroam.protocol.credit import FACTOR, LEAST_AROUND
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    INSTANCE_SIZE,
    NONCE_SIZE,
    AddressChange,
    FiltersRequest,
    IPAddress,
    Method,
    PathResponse,
    Stage,
)

pytestmark = pytest.mark.lab

PORT = 4510
FLOOD = 100_000
SEND = """
import itertools, socket, sys, time
source, port, target, count, pause, *datagrams = sys.argv[1:]
sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sender.bind((source, int(port)))
for datagram in itertools.islice(itertools.cycle(map(bytes.fromhex, datagrams)), int(count)):
    try:
        sender.sendto(datagram, (target, int(port)))
    except OSError:
        pass  # a full queue
    time.sleep(float(pause))
"""


def change(sequence: int, current: IPAddress, *deprecated: IPAddress) -> bytes:
    return encode(
        AddressChange(
            sequence,
            bytes(HANDOVER_SIZE),
            bytes(NONCE_SIZE),
            current,
            deprecated,
            Method.RENEGOTIATE,
            bytes(INSTANCE_SIZE),
        )
    )


def speak(host: Host, to: Host, datagrams: list[bytes], *, count: int, pause: float = 0.0) -> subprocess.Popen[str]:
    """As the controller of a host that has none any more."""
    argv = [str(host.inner_address), str(PORT), str(to.inner_address), str(count), str(pause)]
    return host.popen([sys.executable, "-S", "-E", "-c", SEND, *argv, *(datagram.hex() for datagram in datagrams)])


def peer_of(host: Host, name: str) -> dict[str, object]:
    (peer,) = [peer for peer in host.status()["peers"] if peer["name"] == name]
    return peer


def octets_received(host: Namespace) -> int:
    """In IPv4 packets, of whatever kind."""
    names, values = (
        line.split() for line in host.run(["cat", "/proc/net/netstat"]).stdout.splitlines() if line.startswith("IpExt:")
    )
    return int(dict(zip(names, values, strict=True))["InOctets"])


def test_a_flood_of_one_peer_does_not_keep_another_from_moving_nor_fill_the_log(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(mobiles=2)
    lab.start()
    story = start(lab)
    hostile, mobile = lab.mobiles
    correspondent = lab.correspondent
    mix = story.traffic(mobile, correspondent, bulk_rate=20_000, udp_rate=0)
    hostile.kill_controller()
    before = peer_of(correspondent, hostile.name)
    lines = len(correspondent.log_events())

    noise = [b"", b"SR\x01\x01", b"GET / HTTP/1.0", change(1, hostile.address)[:-1], bytes(1000)]
    nonsense = [change(0, hostile.address), PathResponse(99, bytes(HANDOVER_SIZE), bytes(NONCE_SIZE))]
    nonsense.append(FiltersRequest(99, bytes(HANDOVER_SIZE), Stage.MOVE))
    datagrams = [item if isinstance(item, bytes) else encode(item) for item in (*noise, *nonsense)]
    flood = speak(hostile, correspondent, datagrams, count=FLOOD)
    try:
        mobile.move_to("net-b")
        story.wait_arrived(mobile, timeout=120)
        mix.wait_passing()
        assert flood.wait(timeout=500) == 0
    finally:
        flood.kill()
    mix.stop()

    document = correspondent.status()
    print(document["control_channel"], peer_of(correspondent, hostile.name)["refusals"])
    assert sum(document["control_channel"]["dropped"].values()) > FLOOD / 10, "there was a flood"
    after = peer_of(correspondent, hostile.name)
    for key in ("own", "peer", "proven", "last_sequence", "associations"):
        assert after[key] == before[key]
    written = [record for record in correspondent.log_events()[lines:] if record["level"] != "debug"]
    caused = [record["event"] for record in written if record.get("peer") in (hostile.name, None)]
    print(caused)
    assert len(caused) < 60


def test_a_third_party_gets_no_data_and_no_more_than_three_times_what_was_sent(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    lab.start()
    story = start(lab)
    hostile, correspondent = lab.mobile, lab.correspondent
    mix = story.traffic(udp_rate=200)
    victim = lab.add_bystander("net-b", 77)
    target = NETWORKS["net-b"].address(lab.family, 77)
    hostile.kill_controller()
    before = peer_of(correspondent, hostile.name)
    sequence = before["last_sequence"]
    assert isinstance(sequence, int)

    count, message = 20, change(sequence + 1, target, hostile.address)
    received = octets_received(victim)
    speak(hostile, correspondent, [message], count=count, pause=0.1).wait(timeout=60)
    correspondent.controller.wait_event("address_change_accepted", detail=f"at {target}, carrying {hostile.address}")
    unproven = peer_of(correspondent, hostile.name)
    if unproven["unproven"] is not None:
        assert (unproven["unproven"], unproven["proven"]) == (str(target), str(hostile.address))
    mix.wait_passing()
    correspondent.controller.wait_event("path_not_proven", PROOF_TIME + 20)
    after = peer_of(correspondent, hostile.name)
    assert after["peer"] == before["peer"], "back at the proven address"
    mix.wait_passing()
    got = octets_received(victim) - received
    print(f"{count} datagrams were sent, the victim got {got} octets")
    assert 0 < got <= FACTOR * count * (len(message) + LEAST_AROUND[4])

    wait_for(lambda: peer_of(correspondent, hostile.name)["unproven"] is None, 10, "nothing is in doubt any more")
    mix.stop()

"""Policies and SAs with real ESP between two hosts, and a witness on the wire that sees what is in clear."""

import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernel.xfrm_namespace import (
    ENDS,
    Neighbor,
    assert_not_sent,
    datagrams,
    exchange,
    in_namespace,
    ip,
    two_hosts,
)
from lab.waiting import wait_for
from swanroam.kernel.xfrm import guards
from swanroam.kernel.xfrm.algorithms import AeadAlgorithm, KeyMaterial
from swanroam.kernel.xfrm.association import SecurityAssociation
from swanroam.kernel.xfrm.codec import IPAddress, family_of
from swanroam.kernel.xfrm.constants import IPPROTO_ESP, Direction
from swanroam.kernel.xfrm.lifetimes import Mark
from swanroam.kernel.xfrm.policies import add_policy, apply_owned, clear_owned, delete_policy
from swanroam.kernel.xfrm.policy import Policy, Template
from swanroam.kernel.xfrm.replay import ReplayState
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.kernel.xfrm.states import (
    add_state,
    clone_inbound,
    delete_reading_final,
    delete_state,
    get_state,
    replace_state,
    widen_source,
)
from swanroam.kernel.xfrm.stats import difference, read_statistics

pytestmark = pytest.mark.lab

CHARON = 367_231
REQID = 1
NEW = {4: ip_address("10.0.0.3"), 6: ip_address("2001:db8::3")}
versions = pytest.mark.parametrize("version", [4, 6])


class Witness:
    """A packet socket on the neighbor's end of the wire: protocol and ESP header of every IP packet between hosts."""

    def __init__(self, neighbor: Neighbor) -> None:
        def listen() -> socket.socket:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
            sock.bind(("wire", 3))
            sock.setblocking(False)
            return sock

        self._socket = neighbor.call(listen)
        self.clear: list[bytes] = []
        """Packets with a UDP header in sight."""
        self.esp: list[tuple[int, int]] = []
        """SPI and sequence number of each ESP packet."""
        self.payloads: list[bytes] = []
        """The same packets, without their IP header."""

    def look(self) -> None:
        while True:
            try:
                packet, sender = self._socket.recvfrom(4096)
            except BlockingIOError:
                return
            match sender[1]:
                case 0x0800:
                    protocol, payload = packet[9], packet[(packet[0] & 15) * 4 :]
                case 0x86DD:
                    protocol, payload = packet[6], packet[40:]
                case _:
                    continue
            if protocol == socket.IPPROTO_UDP:
                self.clear.append(packet)
            elif protocol == IPPROTO_ESP:
                self.esp.append(struct.unpack_from(">II", payload))
                self.payloads.append(payload)

    def assert_all_protected(self) -> None:
        """Everything so far went as ESP, and no (SPI, sequence number) was used twice."""
        self.look()
        assert self.clear == []
        assert len(set(self.esp)) == len(self.esp)

    def close(self) -> None:
        self._socket.close()


def key(number: int) -> AeadAlgorithm:
    return AeadAlgorithm("rfc4106(gcm(aes))", 160, 128, KeyMaterial(bytes([number]) * 20))


def association(source: IPAddress, destination: IPAddress, spi: int) -> SecurityAssociation:
    return SecurityAssociation(
        Selector.between(source, destination),
        source,
        destination,
        spi,
        reqid=REQID,
        replay_window=32,
        aead=key(spi & 0xFF),
        replay=ReplayState(),
    )


def demand(source: IPAddress, destination: IPAddress, direction: Direction) -> Policy:
    """What charon installs for a transport-mode child."""
    nothing = ip_address("0.0.0.0" if source.version == 4 else "::")
    template = Template(REQID, saddr=nothing, daddr=nothing, family=family_of(source))
    return Policy(Selector.between(source, destination), direction, priority=CHARON, templates=(template,))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two hosts, their sockets of both kinds, and the SAs between them as they were installed."""

    neighbor: Neighbor
    here: socket.socket
    there: socket.socket
    mine: XfrmSocket
    peers: XfrmSocket
    towards_peer: SecurityAssociation
    towards_me: SecurityAssociation
    witness: Witness


@asynccontextmanager
async def protected(version: int) -> AsyncIterator[Pair]:
    """Two guarded hosts with a transport-mode SA pair."""
    me, peer = ENDS[version]
    async with AsyncExitStack() as stack:
        neighbor, here, there = stack.enter_context(two_hosts(version))
        mine = await stack.enter_async_context(XfrmSocket())
        peers = await stack.enter_async_context(neighbor.call(XfrmSocket))
        out, back = association(me, peer, 0x101), association(peer, me, 0x202)
        for xfrm, local, remote in ((mine, me, peer), (peers, peer, me)):
            discovery = (
                guards.neighbor_discovery(local, remote, Direction.OUT)
                | guards.neighbor_discovery(remote, local, Direction.IN)
                if version == 6
                else frozenset()
            )
            await apply_owned(
                xfrm,
                {
                    guards.guard(local, remote, Direction.OUT),
                    guards.guard(remote, local, Direction.IN),
                    *discovery,
                },
            )
            await add_state(xfrm, out)
            await add_state(xfrm, back)
            await add_policy(xfrm, demand(local, remote, Direction.OUT))
            await add_policy(xfrm, demand(remote, local, Direction.IN))
        witness = Witness(neighbor)
        stack.callback(witness.close)
        exchange(here, there)
        yield Pair(neighbor, here, there, mine, peers, out, back, witness)


@versions
@in_namespace
async def test_guarded_hosts_talk_by_esp_and_never_in_clear(version: int) -> None:
    """With policy and SA: ESP. Without SA, without policy, without both: nothing."""
    me, peer = ENDS[version]
    async with protected(version) as pair:
        exchange(pair.here, pair.there)
        pair.witness.assert_all_protected()
        sent = len(pair.witness.esp)
        assert sent == 4

        out_policy = demand(me, peer, Direction.OUT)
        await delete_policy(pair.mine, out_policy)
        assert_not_sent(pair.here, pair.there)
        await add_policy(pair.mine, out_policy)
        exchange(pair.here, pair.there)

        await delete_state(pair.mine, pair.towards_peer.id)
        before = read_statistics()
        with suppress(OSError):  # the packet is dropped, with or without an error
            pair.here.sendto(b"leak", pair.there.getsockname())
        assert "XfrmOutNoStates" in difference(before, read_statistics())
        await delete_policy(pair.mine, out_policy)
        assert_not_sent(pair.here, pair.there)

        pair.witness.assert_all_protected()
        assert len(pair.witness.esp) == sent + 2

        await clear_owned(pair.mine)
        pair.here.sendto(b"seen", pair.there.getsockname())
        pair.witness.look()
        assert len(pair.witness.clear) == 1, "the witness would have seen a leak"


@versions
@in_namespace
async def test_clone_accepts_a_second_destination_on_the_same_keys(version: int) -> None:
    """The mobile host, after a move: the peer sends to the new address, packets to the old one still arrive."""
    _, peer = ENDS[version]
    new = NEW[version]
    async with protected(version) as pair:
        add_address(str(new))
        clone = clone_inbound(await get_state(pair.mine, pair.towards_me.id), new)
        await add_policy(pair.mine, demand(peer, new, Direction.IN))
        await add_state(pair.mine, clone)

        final = await delete_reading_final(pair.peers, pair.towards_me.id)
        moved = replace(final, daddr=new, selector=Selector.between(peer, new))
        await add_policy(pair.peers, demand(peer, new, Direction.OUT))
        await add_state(pair.peers, moved)
        with datagrams(str(new)) as here_new:
            for number in range(3):
                pair.there.sendto(b"%d" % number, here_new.getsockname())
                assert here_new.recv(10) == b"%d" % number

        await delete_state(pair.peers, moved.id)  # and back, as a packet that was still under way would come
        await add_state(pair.peers, replace(final, replay=ReplayState(oseq=200_000)))
        pair.there.sendto(b"late", pair.here.getsockname())
        assert pair.here.recv(10) == b"late"
        pair.witness.assert_all_protected()


def checksum_errors() -> int:
    """UDP datagrams that this namespace dropped for their checksum."""
    lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp: "))
    return int(dict(zip(names, values, strict=True))["InCsumErrors"])


@in_namespace
async def test_no_packet_arrives_a_second_time_at_the_address_of_a_copy() -> None:
    """What came before the copy was made, its window refuses. What comes later does not fit the other address."""
    _, peer = ENDS[4]
    new = NEW[4]
    async with protected(4) as pair:
        add_address(str(new))

        def received(data: bytes) -> bytes:
            pair.there.sendto(data, pair.here.getsockname())
            assert pair.here.recv(10) == data
            pair.witness.look()
            return pair.witness.payloads[-1]

        early = received(b"early")
        await add_policy(pair.mine, demand(peer, new, Direction.IN))
        await add_state(pair.mine, clone_inbound(await get_state(pair.mine, pair.towards_me.id), new))
        late = received(b"late")
        with (
            pair.neighbor.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, IPPROTO_ESP)) as attacker,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here_new,
        ):
            here_new.bind((str(new), pair.here.getsockname()[1]))
            before, errors = read_statistics(), checksum_errors()
            attacker.sendto(early, (str(new), 0))
            wait_for(
                lambda: difference(before, read_statistics()) == {"XfrmInStateSeqError": 1}, 5, "its window refuses it"
            )
            attacker.sendto(late, (str(new), 0))
            wait_for(lambda: checksum_errors() == errors + 1, 5, "UDP drops it")
            with pytest.raises(BlockingIOError):
                here_new.recv(10, socket.MSG_DONTWAIT)


@versions
@in_namespace
async def test_widened_association_accepts_a_second_source(version: int) -> None:
    """The correspondent, after the mobile host's address changed: old and new source on one SA and one window."""
    _, peer = ENDS[version]
    new = NEW[version]
    async with protected(version) as pair:
        add_address(str(new))
        await add_policy(pair.peers, demand(new, peer, Direction.IN))
        wide = await replace_state(pair.peers, pair.towards_peer.id, widen_source)
        assert wide.replay == ReplayState(0, 1, 1)
        exchange(pair.here, pair.there)

        final = await delete_reading_final(pair.mine, pair.towards_peer.id)
        moved = replace(final, saddr=new, selector=Selector.between(new, peer))
        await add_policy(pair.mine, demand(new, peer, Direction.OUT))
        await add_state(pair.mine, moved)
        with datagrams(str(new)) as here_new:
            here_new.sendto(b"from the new address", pair.there.getsockname())
            assert pair.there.recv(100) == b"from the new address"
        assert (await get_state(pair.peers, wide.id)).usage.packets == 3
        pair.witness.assert_all_protected()


@in_namespace
async def test_replaced_association_counts_on() -> None:
    """Neither the lifetime nor the window of an SA begins anew when it is replaced (SEC-20)."""
    async with protected(4) as pair:
        for _ in range(4):
            exchange(pair.here, pair.there)
        before = await get_state(pair.peers, pair.towards_peer.id)
        await replace_state(pair.peers, pair.towards_peer.id, widen_source)
        after = await get_state(pair.peers, pair.towards_peer.id)
        assert before.usage.packets == 5
        assert after.usage == before.usage
        assert (after.replay, after.limits) == (before.replay, before.limits)
        exchange(pair.here, pair.there)
        assert (await get_state(pair.peers, pair.towards_peer.id)).usage.packets == 6


@versions
@in_namespace
async def test_carried_packets_are_accepted_with_the_mark_only(version: int) -> None:
    me, peer = ENDS[version]
    ethertype = {4: "ip", 6: "ipv6"}[version]
    with two_hosts(version) as (_, here, there):
        async with XfrmSocket() as xfrm:
            carried = guards.carried_inner_in(peer, me, Mark(0x53, 0xFF))
            guard = guards.guard(peer, me, Direction.IN, protocol=17)
            await apply_owned(xfrm, {guard, carried})
            before = read_statistics()
            there.sendto(b"leak", here.getsockname())
            tc("qdisc add dev wire clsact")
            tc(f"filter add dev wire ingress protocol {ethertype} matchall action skbedit mark 0x253/0x3ff")
            there.sendto(b"carried", here.getsockname())
            assert here.recv(100) == b"carried"
            assert difference(before, read_statistics()) == {"XfrmInPolBlock": 1}


def add_address(address: str) -> None:
    ip(f"addr add {address}/{'64 nodad' if ':' in address else '24'} dev wire")


def tc(line: str) -> None:
    subprocess.run(["tc", *line.split()], check=True)

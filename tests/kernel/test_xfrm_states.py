"""SAs on the real kernel: the same to `ip xfrm` and to us, whole clones, exact ends, no key twice."""

from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from kernel.xfrm_namespace import datagrams, in_namespace, ip, words
from swanroam.kernel.xfrm.algorithms import AeadAlgorithm, Algorithm, KeyMaterial, TruncatedAuthentication
from swanroam.kernel.xfrm.association import AssociationId, Encapsulation, SecurityAssociation
from swanroam.kernel.xfrm.constants import Direction, ExtraFlags, Family, Group, Mode, StateFlags
from swanroam.kernel.xfrm.errors import XfrmError, XfrmExists, XfrmNotFound, XfrmUnsupported
from swanroam.kernel.xfrm.events import (
    Acquire,
    AssociationChanged,
    AssociationExpired,
    AssociationsFlushed,
    Change,
    Expiry,
)
from swanroam.kernel.xfrm.lifetimes import LifetimeLimits, Mark
from swanroam.kernel.xfrm.monitor import XfrmMonitor
from swanroam.kernel.xfrm.policies import add_policy
from swanroam.kernel.xfrm.policy import Policy, Template
from swanroam.kernel.xfrm.replay import EsnReplayState, ReplayState
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.kernel.xfrm.states import (
    AddressFilter,
    add_state,
    clone_inbound,
    delete_reading_final,
    delete_state,
    dump_states,
    get_state,
    replace_state,
    widen_source,
)

pytestmark = pytest.mark.lab

ME, PEER, NEW = ip_address("10.0.0.1"), ip_address("10.0.0.2"), ip_address("10.0.0.3")
ME6, PEER6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")
KEY = bytes(range(1, 21))
GCM = f"aead rfc4106(gcm(aes)) 0x{KEY.hex()} 128"
GCM_VALUE = AeadAlgorithm("rfc4106(gcm(aes))", 160, 128, KeyMaterial(KEY))
HOSTS = "src 10.0.0.1 dst 10.0.0.2 proto esp spi 0xc0de"
HOSTS6 = "src 2001:db8::1 dst 2001:db8::2 proto esp spi 0xc0de"
SELECTOR, SELECTOR6 = Selector.between(ME, PEER), Selector.between(ME6, PEER6)
ANYTHING = Selector(ip_address(0), ip_address(0), 0, 0, Family.INET)
ANYTHING6 = Selector(ip_address("::"), ip_address("::"), 0, 0, Family.INET6)

# What `ip` is told, and the same as a value.
SAME_STATES = {
    "transport": (
        f"{HOSTS} mode transport reqid 2 replay-window 32 {GCM} sel src 10.0.0.1/32 dst 10.0.0.2/32",
        SecurityAssociation(
            SELECTOR, ME, PEER, 0xC0DE, reqid=2, replay_window=32, aead=GCM_VALUE, replay=ReplayState()
        ),
    ),
    "transport6": (
        f"{HOSTS6} mode transport reqid 2 {GCM} sel src 2001:db8::1 dst 2001:db8::2 proto tcp sport 80 dport 1024",
        SecurityAssociation(
            Selector.between(ME6, PEER6, protocol=6, source_port=80, destination_port=1024),
            ME6,
            PEER6,
            0xC0DE,
            reqid=2,
            aead=GCM_VALUE,
            replay=ReplayState(),
        ),
    ),
    "tunnel of any family": (
        f"{HOSTS} mode tunnel flag af-unspec nopmtudisc {GCM}",
        SecurityAssociation(
            Selector(ip_address("::"), ip_address("::"), 0, 0, Family.UNSPEC),
            ME,
            PEER,
            0xC0DE,
            mode=Mode.TUNNEL,
            flags=StateFlags.AF_UNSPEC | StateFlags.NOPMTUDISC,
            aead=GCM_VALUE,
            replay=ReplayState(),
        ),
    ),
    "cipher and truncated authentication": (
        f"{HOSTS6} mode transport auth-trunc hmac(sha256) 0x{'ab' * 32} 128 enc cbc(aes) 0x{'cd' * 16}",
        SecurityAssociation(
            ANYTHING6,
            ME6,
            PEER6,
            0xC0DE,
            authentication=Algorithm("hmac(sha256)", 256, KeyMaterial(b"\xab" * 32)),
            truncated_authentication=TruncatedAuthentication("hmac(sha256)", 256, 128, KeyMaterial(b"\xab" * 32)),
            encryption=Algorithm("cbc(aes)", 128, KeyMaterial(b"\xcd" * 16)),
            replay=ReplayState(),
        ),
    ),
    "extended sequence numbers": (
        f"{HOSTS} mode transport flag esn replay-window 64 replay-seq 0x5 replay-oseq 0x6 "
        f"replay-seq-hi 0x1 replay-oseq-hi 0x2 {GCM}",
        SecurityAssociation(
            ANYTHING,
            ME,
            PEER,
            0xC0DE,
            flags=StateFlags.ESN,
            aead=GCM_VALUE,
            replay_esn=EsnReplayState(6, 5, 2, 1, 64, (0, 0)),
        ),
    ),
    "sequence numbers": (
        f"{HOSTS6} mode transport replay-window 16 replay-seq 0x5 replay-oseq 0x6 {GCM}",
        SecurityAssociation(ANYTHING6, ME6, PEER6, 0xC0DE, replay_window=16, aead=GCM_VALUE, replay=ReplayState(6, 5)),
    ),
    "behind NAT": (
        f"{HOSTS} mode transport {GCM} encap espinudp 4500 1025 0.0.0.0",
        SecurityAssociation(
            ANYTHING, ME, PEER, 0xC0DE, aead=GCM_VALUE, encapsulation=Encapsulation(2, 4500, 1025), replay=ReplayState()
        ),
    ),
    "marks and interface": (
        f"{HOSTS6} mode transport mark 0x53 mask 0xff {GCM} output-mark 0x10 mask 0xf0 if_id 0x2a",
        SecurityAssociation(
            ANYTHING6,
            ME6,
            PEER6,
            0xC0DE,
            aead=GCM_VALUE,
            mark=Mark(0x53, 0xFF),
            output_mark=Mark(0x10, 0xF0),
            if_id=42,
            replay=ReplayState(),
        ),
    ),
    "limits and flags": (
        f"{HOSTS} mode transport {GCM} flag noecn decap-dscp extra-flag dont-encap-dscp oseq-may-wrap "
        "limit time-soft 1000 limit time-hard 2000 limit time-use-soft 300 limit time-use-hard 400 "
        "limit byte-soft 30 limit byte-hard 40 limit packet-soft 50 limit packet-hard 60",
        SecurityAssociation(
            ANYTHING,
            ME,
            PEER,
            0xC0DE,
            flags=StateFlags.NOECN | StateFlags.DECAP_DSCP,
            extra_flags=ExtraFlags.DONT_ENCAP_DSCP | ExtraFlags.OSEQ_MAY_WRAP,
            aead=GCM_VALUE,
            limits=LifetimeLimits(30, 40, 50, 60, 1000, 2000, 300, 400),
            replay=ReplayState(),
        ),
    ),
    "authentication header": (
        f"src 10.0.0.1 dst 10.0.0.2 proto ah spi 0xc0de mode transport auth-trunc hmac(sha256) 0x{'ab' * 32} 128",
        SecurityAssociation(
            ANYTHING,
            ME,
            PEER,
            0xC0DE,
            proto=51,
            authentication=Algorithm("hmac(sha256)", 256, KeyMaterial(b"\xab" * 32)),
            truncated_authentication=TruncatedAuthentication("hmac(sha256)", 256, 128, KeyMaterial(b"\xab" * 32)),
            replay=ReplayState(),
        ),
    ),
}

INBOUND = SAME_STATES["transport"][1]


def as_configured(sa: SecurityAssociation) -> SecurityAssociation:
    """Without the time of its creation."""
    return replace(sa, usage=INBOUND.usage)


@pytest.mark.parametrize("name", SAME_STATES)
@in_namespace
async def test_association_made_by_ip_is_read_by_us_and_made_again_whole(name: str) -> None:
    line, value = SAME_STATES[name]
    ip(f"xfrm state add {line}")
    by_ip = words(ip("-d -s xfrm state"))
    async with XfrmSocket() as xfrm:
        (found,) = await dump_states(xfrm)
        assert as_configured(found) == value
        assert found == await get_state(xfrm, value.id)

        await delete_state(xfrm, found.id)
        assert ip("xfrm state") == ""
        await add_state(xfrm, found)
        assert words(ip("-d -s xfrm state")) == by_ip
        assert await get_state(xfrm, value.id) == found

        await delete_state(xfrm, found.id)
        await add_state(xfrm, value)
        assert as_configured(await get_state(xfrm, value.id)) == value


@in_namespace
async def test_associations_are_found_by_their_addresses() -> None:
    async with XfrmSocket() as xfrm:
        await add_state(xfrm, INBOUND)
        await add_state(xfrm, replace(INBOUND, daddr=NEW))
        await add_state(xfrm, SAME_STATES["transport6"][1])
        only = AddressFilter(ip_network("10.0.0.0/24"), ip_network("10.0.0.3/32"))
        assert [sa.daddr for sa in await dump_states(xfrm, only)] == [NEW]
        only6 = AddressFilter(ip_network("::/0"), ip_network("2001:db8::/32"))
        assert [sa.daddr for sa in await dump_states(xfrm, only6)] == [PEER6]
        assert len(await dump_states(xfrm)) == 3


@in_namespace
async def test_association_is_told_by_its_mark() -> None:
    marked = SAME_STATES["marks and interface"][1]
    async with XfrmSocket() as xfrm:
        await add_state(xfrm, marked)
        with pytest.raises(XfrmNotFound, match="esp to 2001:db8::2 spi 0x0000c0de"):
            await get_state(xfrm, replace(marked.id, mark=Mark()))
        assert as_configured(await get_state(xfrm, marked.id)) == marked


@in_namespace
async def test_errors_name_the_association_and_not_its_keys() -> None:
    async with XfrmSocket() as xfrm:
        await add_state(xfrm, INBOUND)
        with pytest.raises(XfrmExists) as caught:
            await add_state(xfrm, INBOUND)
        assert "10.0.0.1 -> 10.0.0.2 esp spi 0x0000c0de reqid 2" in str(caught.value)
        assert KEY.hex() not in str(caught.value)
        unknown = replace(INBOUND, spi=7, aead=AeadAlgorithm("rot13", 160, 128, KeyMaterial(KEY)))
        with pytest.raises(XfrmUnsupported, match="modprobe") as unsupported:
            await add_state(xfrm, unknown)
        assert KEY.hex() not in str(unsupported.value)


@in_namespace
async def test_inbound_clone_stands_beside_the_original() -> None:
    async with XfrmSocket() as xfrm:
        await add_state(xfrm, replace(INBOUND, replay=ReplayState(0, 9, 0x1FF)))
        original = await get_state(xfrm, INBOUND.id)
        clone = clone_inbound(original, NEW)
        await add_state(xfrm, clone)
        assert await get_state(xfrm, original.id) == original
        assert await get_state(xfrm, clone.id) == clone
        assert clone.usage.add_time == original.usage.add_time > 0


@in_namespace
async def test_source_is_widened_in_place() -> None:
    async with XfrmSocket() as xfrm:
        await add_state(xfrm, replace(INBOUND, replay=ReplayState(0, 9, 0x1FF)))
        wide = await replace_state(xfrm, INBOUND.id, widen_source)
        assert await dump_states(xfrm) == [wide]
        assert (wide.saddr, wide.selector.source) == (ip_address("0.0.0.0"), ip_network("0.0.0.0/0"))
        assert (wide.replay, wide.aead) == (ReplayState(0, 9, 0x1FF), INBOUND.aead)


@in_namespace
async def test_refused_replacement_puts_the_association_back() -> None:
    async with XfrmSocket() as xfrm:
        await add_state(xfrm, INBOUND)
        before = await dump_states(xfrm)
        with pytest.raises(XfrmError):
            await replace_state(xfrm, INBOUND.id, lambda sa: replace(sa, mode=Mode(77)))
        assert await dump_states(xfrm) == before
        with pytest.raises(ValueError, match="has the address"):
            await replace_state(xfrm, INBOUND.id, lambda sa: clone_inbound(sa, PEER))
        assert await dump_states(xfrm) == before


@in_namespace
async def test_deleted_association_is_returned_with_its_last_numbers() -> None:
    esn = SAME_STATES["extended sequence numbers"][1]
    async with XfrmSocket() as xfrm:
        await add_state(xfrm, esn)
        final = await delete_reading_final(xfrm, esn.id)
        assert as_configured(final) == esn
        assert await dump_states(xfrm) == []
        with pytest.raises(XfrmNotFound):
            await delete_reading_final(xfrm, esn.id)
        moved = replace(final, saddr=NEW)
        await add_state(xfrm, moved)
        found = await get_state(xfrm, esn.id)
        assert found.replay_esn == EsnReplayState(6, 5, 2, 1, 64, (0, 0))
        assert found.saddr == NEW


@in_namespace
async def test_changes_and_expiry_are_reported() -> None:
    limited = replace(INBOUND, limits=LifetimeLimits(hard_add_expires_seconds=1))
    async with XfrmMonitor({Group.SA, Group.EXPIRE}) as monitor, XfrmSocket() as xfrm:
        await add_state(xfrm, limited)
        added = await anext(monitor)
        assert isinstance(added, AssociationChanged)
        assert (added.change, as_configured(added.association)) == (Change.ADDED, limited)
        expired = await anext(monitor)
        assert isinstance(expired, AssociationExpired)
        assert (expired.expiry, expired.association.id) == (Expiry.HARD, limited.id)
        await add_state(xfrm, replace(INBOUND, spi=8))
        assert isinstance(await anext(monitor), AssociationChanged)
        ip("xfrm state flush")
        assert await anext(monitor) == AssociationsFlushed(0)


@in_namespace
async def test_packet_without_association_is_reported_with_its_policy() -> None:
    peer = ip_address("10.9.9.9")
    ip("link add d0 type dummy")
    ip("addr add 10.0.0.1/24 dev d0")
    ip("link set d0 up")
    ip("route add 10.9.9.9 dev d0 src 10.0.0.1")
    policy = Policy(Selector.between(ME, peer), Direction.OUT, priority=5, templates=(Template(3),))
    async with XfrmMonitor({Group.ACQUIRE}) as monitor, XfrmSocket() as xfrm:
        await add_policy(xfrm, policy)
        with datagrams(str(ME)) as sock:
            sock.setblocking(False)
            with suppress(OSError):
                sock.sendto(b"needs an SA", (str(peer), 9))
        event = await anext(monitor)
        assert isinstance(event, Acquire)
        assert (event.saddr, event.daddr, event.proto, event.policy) == (ME, peer, 50, policy)
        assert (event.selector.proto, event.selector.dport) == (17, 9)


@in_namespace
async def test_identifier_of_another_protocol_is_another_association() -> None:
    async with XfrmSocket() as xfrm:
        await add_state(xfrm, INBOUND)
        with pytest.raises(XfrmNotFound, match="ah to"):
            await delete_state(xfrm, AssociationId(PEER, 0xC0DE, proto=51))
        assert len(await dump_states(xfrm)) == 1

"""Copies of SAs for another address: what changes, and above all what must not (SEC-18, SEC-20)."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swanroam.kernel.xfrm.algorithms import AeadAlgorithm, KeyMaterial
from swanroam.kernel.xfrm.association import Encapsulation, SecurityAssociation, StateStatistics
from swanroam.kernel.xfrm.codec import Attribute
from swanroam.kernel.xfrm.constants import Mode, StateFlags
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.kernel.xfrm.lifetimes import LifetimeLimits, LifetimeUsage, Mark
from swanroam.kernel.xfrm.replay import EsnReplayState, ReplayState, SequenceNumbersExhausted
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.states import SEQUENCE_MARGIN, advance_outbound, clone_inbound, widen_source

PEER, OLD, NEW = ip_address("10.0.0.2"), ip_address("10.1.0.1"), ip_address("10.2.0.1")
INBOUND = SecurityAssociation(
    Selector.between(PEER, OLD),
    PEER,
    OLD,
    0xC0DE,
    reqid=2,
    aead=AeadAlgorithm("rfc4106(gcm(aes))", 160, 128, KeyMaterial(bytes(range(20)))),
    encapsulation=Encapsulation(2, 4500, 4500),
    mark=Mark(1, 1),
    replay=ReplayState(oseq=0, seq=90, bitmap=0xFF),
    limits=LifetimeLimits(hard_byte_limit=10**9),
    usage=LifetimeUsage(octets=5000, packets=50, add_time=10, use_time=11),
    statistics=StateStatistics(replay=3),
    sequence=4,
    others=(Attribute(0x3000, b"kept"),),
)


def test_inbound_clone_differs_in_its_destination_only() -> None:
    clone = clone_inbound(INBOUND, NEW)
    assert clone == replace(
        INBOUND,
        daddr=NEW,
        selector=Selector.between(PEER, NEW),
        statistics=StateStatistics(),
        sequence=0,
    )
    assert (clone.replay, clone.usage, clone.others) == (INBOUND.replay, INBOUND.usage, INBOUND.others)


def test_inbound_clone_keeps_a_selector_that_is_not_the_old_address() -> None:
    tunnel = replace(
        INBOUND, mode=Mode.TUNNEL, selector=Selector.between(ip_network("10.9.0.0/16"), ip_network("10.1.0.0/16"))
    )
    assert clone_inbound(tunnel, NEW).selector == tunnel.selector
    wanted = Selector.between(PEER, ip_network("10.2.0.0/16"))
    assert clone_inbound(INBOUND, NEW, wanted).selector == wanted


def test_clone_for_the_same_address_or_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match="has the address"):
        clone_inbound(INBOUND, OLD)
    with pytest.raises(ValueError, match="families differ"):
        clone_inbound(INBOUND, ip_address("::1"))


def test_widened_source_accepts_any_address_and_nothing_else_more() -> None:
    narrow = replace(INBOUND, selector=Selector.between(PEER, OLD, protocol=6, destination_port=80))
    wide = widen_source(narrow)
    assert wide.saddr == IPv4Address(0)
    assert wide.selector == Selector.between(ip_network("0.0.0.0/0"), OLD, protocol=6, destination_port=80)
    assert (wide.id, wide.replay, wide.usage) == (narrow.id, narrow.replay, narrow.usage)
    assert widen_source(wide) == wide


def test_widened_source_of_ipv6() -> None:
    me, peer = ip_address("2001:db8::1"), ip_address("2001:db8::2")
    wide = widen_source(SecurityAssociation(Selector.between(peer, me), peer, me, 1))
    assert (wide.saddr, wide.selector.source) == (IPv6Address(0), ip_network("::/0"))


def test_tunnel_source_is_not_widened() -> None:
    with pytest.raises(ValueError, match="not in transport mode"):
        widen_source(replace(INBOUND, mode=Mode.TUNNEL))


def test_margin_without_extended_numbers() -> None:
    assert advance_outbound(replace(INBOUND, replay=ReplayState(oseq=7))).replay == ReplayState(
        oseq=7 + SEQUENCE_MARGIN
    )
    big_window = replace(INBOUND, replay=None, replay_esn=EsnReplayState(oseq=7, replay_window=64, bitmap=(0, 0)))
    assert advance_outbound(big_window, 10).replay_esn == replace(big_window.replay_esn, oseq=17)


def test_margin_carries_into_the_high_half_of_extended_numbers() -> None:
    sa = replace(INBOUND, replay=None, flags=StateFlags.ESN, replay_esn=EsnReplayState(oseq=0xFFFFFFFF, oseq_hi=1))
    assert advance_outbound(sa, 2).replay_esn == EsnReplayState(oseq=1, oseq_hi=2)


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**20))
@example(2**32 - 1, 1)
def test_short_sequence_numbers_never_wrap(oseq: int, margin: int) -> None:
    for sa in (
        replace(INBOUND, replay=ReplayState(oseq=oseq)),
        replace(INBOUND, replay=None, replay_esn=EsnReplayState(oseq=oseq)),
    ):
        try:
            advanced = advance_outbound(sa, margin)
        except SequenceNumbersExhausted:
            assert oseq + margin >= 2**32
        else:
            state = advanced.replay or advanced.replay_esn
            assert state is not None
            assert state.oseq == oseq + margin < 2**32


def test_extended_sequence_numbers_end_too() -> None:
    last = EsnReplayState(oseq=0xFFFFFFFF, oseq_hi=0xFFFFFFFF)
    with pytest.raises(SequenceNumbersExhausted, match="rekey"):
        advance_outbound(replace(INBOUND, replay=None, flags=StateFlags.ESN, replay_esn=last), 1)


def test_association_without_replay_state_cannot_be_advanced() -> None:
    with pytest.raises(XfrmError, match="without replay state"):
        advance_outbound(replace(INBOUND, replay=None))

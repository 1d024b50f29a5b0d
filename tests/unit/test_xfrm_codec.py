"""What is encoded decodes to the same value, whatever the value; what is not an encoding is refused, whatever it is."""

from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swanroam.kernel.xfrm import association, events, migrate, policy, replay, selectors, states
from swanroam.kernel.xfrm.algorithms import (
    ALGO,
    ALGO_AEAD,
    ALGO_AUTH,
    AeadAlgorithm,
    Algorithm,
    KeyMaterial,
    TruncatedAuthentication,
)
from swanroam.kernel.xfrm.association import (
    AssociationId,
    Encapsulation,
    SecurityAssociation,
    StateStatistics,
)
from swanroam.kernel.xfrm.codec import (
    Attribute,
    Layout,
    Message,
    decode_attributes,
    decode_messages,
    encode_attributes,
)
from swanroam.kernel.xfrm.constants import (
    Action,
    Direction,
    ExtraFlags,
    Family,
    Mode,
    PolicyFlags,
    PolicyType,
    SaDirection,
    StateFlags,
)
from swanroam.kernel.xfrm.errors import XfrmDecodeError
from swanroam.kernel.xfrm.lifetimes import LIFETIME_CFG, LIFETIME_CUR, LifetimeLimits, LifetimeUsage, Mark
from swanroam.kernel.xfrm.policy import Policy, Template
from swanroam.kernel.xfrm.replay import EsnReplayState, ReplayState
from swanroam.kernel.xfrm.selectors import Selector


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


U8, U16, U32, U64 = unsigned(8), unsigned(16), unsigned(32), unsigned(64)
FAMILIES = st.sampled_from([4, 6])


def addresses(version: int) -> st.SearchStrategy[IPv4Address | IPv6Address]:
    return st.ip_addresses(v=version)


@st.composite
def selectors_of(draw: st.DrawFn, version: int) -> Selector:
    """Also ones with bits set outside the prefix, which the kernel keeps."""
    longest = 32 if version == 4 else 128
    return Selector(
        draw(addresses(version)),
        draw(addresses(version)),
        draw(st.integers(0, longest)),
        draw(st.integers(0, longest)),
        Family.INET if version == 4 else Family.INET6,
        *(draw(kind) for kind in (U8, U16, U16, U16, U16)),
        draw(st.integers(-(2**31), 2**31 - 1)),
        draw(U32),
    )


LIMITS = st.builds(LifetimeLimits, *[U64] * 8)
USAGES = st.builds(LifetimeUsage, *[U64] * 4)
MARKS = st.builds(Mark, U32, U32)
# A kind that has no name in this package, so that it ends up in `others` of any object.
UNKNOWN_ATTRIBUTES = st.lists(st.builds(Attribute, st.integers(0x100, 0x3FFF), st.binary(max_size=40)), max_size=3).map(
    tuple
)


@st.composite
def templates(draw: st.DrawFn) -> Template:
    version = draw(FAMILIES)
    return Template(
        draw(U32),
        draw(st.sampled_from(list(Mode))),
        draw(U8),
        draw(addresses(version)),
        draw(addresses(version)),
        Family.INET if version == 4 else Family.INET6,
        draw(U32),
        draw(U8),
        draw(U8),
        draw(U32),
        draw(U32),
        draw(U32),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return Policy(
        draw(selectors_of(draw(FAMILIES))),
        draw(st.sampled_from(list(Direction))),
        draw(st.sampled_from(list(Action))),
        draw(U32),
        tuple(draw(st.lists(templates(), max_size=6))),
        draw(MARKS),
        draw(U32),
        draw(st.sampled_from(list(PolicyFlags))),
        draw(U8),
        draw(st.sampled_from(list(PolicyType))),
        draw(LIMITS),
        draw(UNKNOWN_ATTRIBUTES),
        draw(U32),
        draw(USAGES),
    )


NAMES = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=63)
KEYS = st.binary(max_size=72)
ALGORITHMS = st.builds(lambda name, key: Algorithm(name, len(key) * 8, KeyMaterial(key)), NAMES, KEYS)
TRUNCATED = st.builds(
    lambda name, key, bits: TruncatedAuthentication(name, len(key) * 8, bits, KeyMaterial(key)), NAMES, KEYS, U32
)
AEADS = st.builds(lambda name, key, bits: AeadAlgorithm(name, len(key) * 8, bits, KeyMaterial(key)), NAMES, KEYS, U32)
ESN = st.builds(EsnReplayState, U32, U32, U32, U32, st.integers(0, 4096), st.lists(U32, max_size=128).map(tuple))


@st.composite
def associations(draw: st.DrawFn) -> SecurityAssociation:
    version = draw(FAMILIES)
    return SecurityAssociation(
        selector=draw(selectors_of(version)),
        saddr=draw(addresses(version)),
        daddr=draw(addresses(version)),
        spi=draw(U32),
        proto=draw(U8),
        reqid=draw(U32),
        mode=draw(st.sampled_from(list(Mode))),
        replay_window=draw(U8),
        flags=StateFlags(draw(U8)),
        authentication=draw(st.none() | ALGORITHMS),
        truncated_authentication=draw(st.none() | TRUNCATED),
        encryption=draw(st.none() | ALGORITHMS),
        compression=draw(st.none() | ALGORITHMS),
        aead=draw(st.none() | AEADS),
        encapsulation=draw(st.none() | st.builds(Encapsulation, U16, U16, U16, st.binary(min_size=16, max_size=16))),
        mark=draw(MARKS),
        output_mark=draw(MARKS),
        if_id=draw(U32),
        tfc_padding=draw(U32),
        extra_flags=ExtraFlags(draw(st.integers(0, 3))),
        direction=draw(st.sampled_from(list(SaDirection))),
        replay=draw(st.none() | st.builds(ReplayState, U32, U32, U32)),
        replay_esn=draw(st.none() | ESN),
        care_of_address=draw(st.none() | st.binary(min_size=16, max_size=16)),
        limits=draw(LIMITS),
        usage=draw(USAGES),
        statistics=draw(st.builds(StateStatistics, U32, U32, U32)),
        sequence=draw(U32),
        others=draw(UNKNOWN_ATTRIBUTES),
    )


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (selectors.SELECTOR, 56),
        (LIFETIME_CFG, 64),
        (LIFETIME_CUR, 32),
        (policy.USERPOLICY_INFO, 168),
        (policy.USERPOLICY_ID, 64),
        (policy.USERPOLICY_TYPE, 6),
        (policy.USER_TMPL, 64),
        (association.USERSA_INFO, 224),
        (association.USERSA_ID, 24),
        (association.ENCAP_TMPL, 24),
        (association.STATS, 12),
        (replay.REPLAY_STATE, 12),
        (replay.REPLAY_STATE_ESN, 24),
        (ALGO, 68),
        (ALGO_AUTH, 72),
        (ALGO_AEAD, 72),
        (migrate.USER_MIGRATE, 76),
        (migrate.USER_KMADDRESS, 40),
        (events.USER_ACQUIRE, 280),
        (events.USER_EXPIRE, 232),
        (events.USER_POLEXPIRE, 176),
        (events.USER_MAPPING, 64),
        (states.ADDRESS_FILTER, 36),
    ],
    ids=lambda value: value.name if isinstance(value, Layout) else "",
)
def test_structures_have_the_size_that_the_kernel_gives_them(layout: Layout, size: int) -> None:
    assert layout.size == size


@given(st.integers(4, 6).filter(lambda version: version != 5).flatmap(selectors_of))
def test_selector_round_trip(selector: Selector) -> None:
    assert Selector.decode(selector.encode()) == selector


@given(policies())
def test_policy_round_trip(value: Policy) -> None:
    decoded = Policy.decode(value.encode())
    assert decoded == value
    assert (decoded.index, decoded.usage) == (value.index, value.usage)
    assert decoded.encode() == value.encode()


@given(associations())
def test_association_round_trip(value: SecurityAssociation) -> None:
    decoded = SecurityAssociation.decode(value.encode())
    assert decoded == value
    assert decoded.encode() == value.encode()


@given(st.lists(st.builds(Message, U16, U16, U32, st.binary(max_size=30)), max_size=4))
def test_messages_of_one_datagram_are_taken_apart_again(messages: list[Message]) -> None:
    assert list(decode_messages(b"".join(message.encode() for message in messages))) == messages


@pytest.mark.parametrize(
    "decode",
    [
        Selector.decode,
        Policy.decode,
        SecurityAssociation.decode,
        Template.decode,
        policy.decode_templates,
        Algorithm.decode,
        TruncatedAuthentication.decode,
        AeadAlgorithm.decode,
        ReplayState.decode,
        EsnReplayState.decode,
        Encapsulation.decode,
        Mark.decode,
        migrate.decode_migrations,
        migrate.KeyManagerAddress.decode,
        lambda data: list(decode_attributes(data)),
        lambda data: list(decode_messages(data)),
    ],
)
def test_arbitrary_octets_are_a_value_or_a_decode_error(decode) -> None:
    @given(st.binary(max_size=320))
    def check(data: bytes) -> None:
        with suppress(XfrmDecodeError):
            decode(data)

    check()


@given(st.data(), associations() | policies())
def test_damaged_object_is_a_value_or_a_decode_error(data: st.DataObject, value: SecurityAssociation | Policy) -> None:
    octets = bytearray(value.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(U8)
    cut = data.draw(st.integers(0, len(octets)))
    for damaged in (bytes(octets), bytes(octets[:cut])):
        try:
            decoded = type(value).decode(damaged)
        except XfrmDecodeError:
            continue
        assert type(value).decode(decoded.encode()) == decoded


@given(associations())
def test_clone_of_a_decoded_association_keeps_unknown_attributes(value: SecurityAssociation) -> None:
    extra = Attribute(0x3000, b"future")
    decoded = SecurityAssociation.decode(value.encode() + encode_attributes([extra]))
    assert decoded.others[-1] == extra
    assert decoded.encode().endswith(extra.encode())


def test_selector_between_addresses_and_prefixes() -> None:
    selector = Selector.between(
        ip_address("2001:db8::1"), ip_network("fd53::/48"), protocol=17, destination_port=0, user=7
    )
    assert (selector.source, selector.destination) == (IPv6Network("2001:db8::1/128"), IPv6Network("fd53::/48"))
    assert (selector.dport, selector.dport_mask, selector.sport_mask) == (0, 0xFFFF, 0)
    assert str(selector) == "2001:db8::1/128 -> fd53::/48 udp dport 0"


def test_selector_keeps_bits_outside_its_prefix() -> None:
    octets = Selector(IPv4Address("10.1.2.3"), IPv4Address(0), 8, 0, Family.INET).encode()
    assert Selector.decode(octets).encode() == octets
    assert Selector.decode(octets).source == IPv4Network("10.0.0.0/8")


def test_selector_of_both_families_decodes() -> None:
    """XFRM_STATE_AF_UNSPEC: charon's tunnel-mode SAs that carry IPv6 in IPv4."""
    assert Selector.decode(bytes(56)).family is Family.UNSPEC


def test_selector_of_two_families_is_refused() -> None:
    with pytest.raises(ValueError, match="families differ"):
        Selector.between(ip_address("10.0.0.1"), ip_address("::1"))


def test_prefix_longer_than_an_address_is_a_decode_error() -> None:
    octets = bytearray(Selector.between(ip_address("10.0.0.1"), ip_address("10.0.0.2")).encode())
    octets[42] = 33
    with pytest.raises(XfrmDecodeError, match="prefix length over 32"):
        Selector.decode(bytes(octets))


def test_modes_and_directions_of_newer_kernels_do_not_end_a_dump() -> None:
    octets = bytearray(Policy(Selector.between(ip_address("::1"), ip_address("::2")), Direction.OUT).encode())
    octets[160] = 9
    decoded = Policy.decode(bytes(octets))
    assert decoded.direction == 9
    assert decoded.direction.name == "UNKNOWN_9"
    assert decoded.encode() == bytes(octets)


def test_policies_are_equal_by_what_they_do() -> None:
    selector = Selector.between(ip_address("10.0.0.1"), ip_address("10.0.0.2"))
    one = Policy(selector, Direction.OUT, index=8, usage=LifetimeUsage(add_time=1))
    other = Policy(selector, Direction.OUT, index=16)
    assert one == other
    assert one != Policy(selector, Direction.OUT, priority=1)
    assert one.key == Policy(selector, Direction.OUT, priority=1).key


def test_lifetime_attribute_counts_more_than_the_structure() -> None:
    """The kernel reads only XFRMA_LTIME_VAL; a message with both means what the attribute says."""
    me, peer = ip_address("10.0.0.1"), ip_address("10.0.0.2")
    sa = SecurityAssociation(Selector.between(me, peer), me, peer, 1)
    used = LifetimeUsage(octets=10, packets=1, add_time=2, use_time=3)
    octets = sa.encode() + Attribute(9, used.encode()).encode()
    assert SecurityAssociation.decode(octets).usage == used


def test_association_identifier_is_printed_for_people() -> None:
    assert str(AssociationId(ip_address("10.0.0.2"), 0xC0DE)) == "esp to 10.0.0.2 spi 0x0000c0de"


@pytest.mark.parametrize("field", ["priority", "unknown"])
def test_values_that_do_not_fit_are_refused_when_encoding(field: str) -> None:
    if field == "unknown":
        with pytest.raises(TypeError, match="no field unknown"):
            policy.USERPOLICY_INFO.pack(unknown=1)
    else:
        with pytest.raises(ValueError, match="does not fit"):
            policy.USERPOLICY_INFO.pack(priority=2**32)

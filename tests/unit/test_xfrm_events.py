"""What the kernel reports becomes a typed event; what cannot be read becomes `Unrecognised`, never an exception."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swanroam.kernel.xfrm.association import (
    USERSA_INFO,
    AssociationId,
    Encapsulation,
    SecurityAssociation,
)
from swanroam.kernel.xfrm.codec import Attribute, Message, encode_address, encode_attributes
from swanroam.kernel.xfrm.constants import AttributeType, Direction, MessageType, Mode, PolicyType
from swanroam.kernel.xfrm.events import (
    USER_ACQUIRE,
    USER_EXPIRE,
    USER_MAPPING,
    USER_POLEXPIRE,
    Acquire,
    AssociationChanged,
    AssociationExpired,
    AssociationsFlushed,
    Change,
    Event,
    Expiry,
    MappingChanged,
    Migrated,
    PoliciesFlushed,
    PolicyChanged,
    PolicyExpired,
    Unrecognised,
    decode_event,
)
from swanroam.kernel.xfrm.lifetimes import Mark
from swanroam.kernel.xfrm.migrate import KeyManagerAddress, Migration
from swanroam.kernel.xfrm.policy import USERPOLICY_ID, USERPOLICY_INFO, USERPOLICY_TYPE, Policy, Template
from swanroam.kernel.xfrm.selectors import Selector

ME, PEER, NEW = ip_address("10.0.0.1"), ip_address("10.0.0.2"), ip_address("10.0.0.3")
SELECTOR = Selector.between(ME, PEER)
SA = SecurityAssociation(SELECTOR, ME, PEER, 0xC0DE, reqid=3, mark=Mark(5, 0xFF))
POLICY = Policy(SELECTOR, Direction.OUT, priority=7, templates=(Template(3),), mark=Mark(5, 0xFF))


def event(kind: MessageType, *parts: bytes) -> Event:
    return decode_event(Message(kind, 0, 0, b"".join(parts)))


@pytest.mark.parametrize(("kind", "change"), [(MessageType.NEWSA, Change.ADDED), (MessageType.UPDSA, Change.UPDATED)])
def test_association_added_or_updated(kind: MessageType, change: Change) -> None:
    assert event(kind, SA.encode()) == AssociationChanged(change, SA)


def test_deleted_association_is_read_from_its_attribute() -> None:
    body = SA.encode()
    info, others = body[: USERSA_INFO.size], body[USERSA_INFO.size :]
    identifier = replace(SA.id, mark=Mark()).encode()
    decoded = event(MessageType.DELSA, identifier, Attribute(AttributeType.SA, info).encode(), others)
    assert decoded == AssociationChanged(Change.DELETED, SA)


def test_deleted_association_without_its_attribute_is_unrecognised() -> None:
    decoded = event(MessageType.DELSA, SA.id.encode())
    assert isinstance(decoded, Unrecognised)
    assert "XFRMA_SA is missing" in decoded.reason


@pytest.mark.parametrize(
    ("kind", "change"), [(MessageType.NEWPOLICY, Change.ADDED), (MessageType.UPDPOLICY, Change.UPDATED)]
)
def test_policy_added_or_updated(kind: MessageType, change: Change) -> None:
    assert event(kind, POLICY.encode()) == PolicyChanged(change, POLICY)


def test_deleted_policy_is_read_from_its_attribute() -> None:
    body = POLICY.encode()
    info, others = body[: USERPOLICY_INFO.size], body[USERPOLICY_INFO.size :]
    identifier = USERPOLICY_ID.pack(sel=SELECTOR.encode(), dir=Direction.OUT)
    decoded = event(MessageType.DELPOLICY, identifier, Attribute(AttributeType.POLICY, info).encode(), others)
    assert decoded == PolicyChanged(Change.DELETED, POLICY)


@pytest.mark.parametrize(("hard", "expiry"), [(0, Expiry.SOFT), (1, Expiry.HARD)])
def test_expiry_of_association_and_policy(hard: int, expiry: Expiry) -> None:
    body = SA.encode()
    state = USER_EXPIRE.pack(state=body[: USERSA_INFO.size], hard=hard)
    assert event(MessageType.EXPIRE, state, body[USERSA_INFO.size :]) == AssociationExpired(SA, expiry)
    body = POLICY.encode()
    pol = USER_POLEXPIRE.pack(pol=body[: USERPOLICY_INFO.size], hard=hard)
    assert event(MessageType.POLEXPIRE, pol, body[USERPOLICY_INFO.size :]) == PolicyExpired(POLICY, expiry)


def test_acquire_has_the_packet_and_the_policy() -> None:
    body = POLICY.encode()
    packet = Selector.between(ME, PEER, protocol=6, source_port=1024, destination_port=80)
    head = USER_ACQUIRE.pack(
        daddr=encode_address(PEER),
        saddr=encode_address(ME),
        proto=50,
        sel=packet.encode(),
        policy=body[: USERPOLICY_INFO.size],
        seq=9,
    )
    decoded = event(MessageType.ACQUIRE, head, body[USERPOLICY_INFO.size :])
    assert decoded == Acquire(ME, PEER, 50, packet, POLICY, 9)


def test_flushes() -> None:
    assert event(MessageType.FLUSHSA, b"\xff") == AssociationsFlushed(255)
    kind = Attribute(AttributeType.POLICY_TYPE, USERPOLICY_TYPE.pack(type=PolicyType.SUB)).encode()
    assert event(MessageType.FLUSHPOLICY, kind) == PoliciesFlushed(PolicyType.SUB)
    assert event(MessageType.FLUSHPOLICY) == PoliciesFlushed(PolicyType.MAIN)


def test_migration_has_one_attribute_per_pair() -> None:
    pairs = (Migration(ME, PEER, NEW, PEER, 3), Migration(ME, PEER, NEW, PEER, 4, Mode.TUNNEL))
    key_manager, encapsulation = KeyManagerAddress(NEW, PEER), Encapsulation(2, 4500, 4500)
    decoded = event(
        MessageType.MIGRATE,
        USERPOLICY_ID.pack(sel=SELECTOR.encode(), dir=Direction.OUT),
        encode_attributes(
            [
                Attribute(AttributeType.KMADDRESS, key_manager.encode()),
                Attribute(AttributeType.ENCAP, encapsulation.encode()),
                *(Attribute(AttributeType.MIGRATE, pair.encode()) for pair in pairs),
            ]
        ),
    )
    assert decoded == Migrated(SELECTOR, Direction.OUT, pairs, key_manager, encapsulation)


def test_mapping_change_names_the_association() -> None:
    head = USER_MAPPING.pack(
        id=AssociationId(ME, 0xC0DE).encode(),
        reqid=3,
        old_saddr=encode_address(PEER),
        new_saddr=encode_address(NEW),
        old_sport=4500,
        new_sport=1025,
    )
    assert event(MessageType.MAPPING, head) == MappingChanged(AssociationId(ME, 0xC0DE), 3, PEER, NEW, 4500, 1025)


def test_migrate_state_of_newer_kernels_is_unrecognised() -> None:
    decoded = event(MessageType.MIGRATE_STATE, bytes(200))
    assert isinstance(decoded, Unrecognised)
    assert decoded.type is MessageType.MIGRATE_STATE


@given(st.integers(0, 0xFFFF) | st.sampled_from(list(MessageType)), st.binary(max_size=400))
@example(MessageType.MAPPING, bytes(64))
def test_arbitrary_messages_never_raise(kind: int, payload: bytes) -> None:
    decode_event(Message(kind, 0, 0, payload))

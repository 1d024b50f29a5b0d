"""What the kernel reports by itself, as values.

`decode_event` turns one message of a multicast group into one of the classes below; whatever it cannot read becomes
`Unrecognised`, because a consumer of events has to go on and to read the state again.
Source: xfrm_send_state_notify, xfrm_send_policy_notify, build_acquire, build_expire, build_migrate, build_mapping in
net/xfrm/xfrm_user.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from swanroam.kernel.xfrm.association import (
    USERSA_ID,
    USERSA_INFO,
    AssociationId,
    Encapsulation,
    SecurityAssociation,
)
from swanroam.kernel.xfrm.codec import (
    ADDRESS,
    Attribute,
    IPAddress,
    Layout,
    Message,
    decode_address,
    decode_attributes,
    decode_family,
)
from swanroam.kernel.xfrm.constants import AttributeType, Direction, MessageType, PolicyType
from swanroam.kernel.xfrm.errors import XfrmDecodeError
from swanroam.kernel.xfrm.lifetimes import NO_MARK, Mark
from swanroam.kernel.xfrm.migrate import KeyManagerAddress, Migration, decode_migrations
from swanroam.kernel.xfrm.policy import USERPOLICY_ID, USERPOLICY_INFO, USERPOLICY_TYPE, Policy
from swanroam.kernel.xfrm.selectors import SELECTOR, Selector

USER_ACQUIRE: Final = Layout(
    "xfrm_user_acquire",
    daddr=ADDRESS,
    spi=">I",
    proto="B",
    pad="3x",
    saddr=ADDRESS,
    sel=SELECTOR,
    policy=USERPOLICY_INFO,
    aalgos="I",
    ealgos="I",
    calgos="I",
    seq="I",
)
USER_EXPIRE: Final = Layout("xfrm_user_expire", state=USERSA_INFO, hard="B", pad="7x")
USER_POLEXPIRE: Final = Layout("xfrm_user_polexpire", pol=USERPOLICY_INFO, hard="B", pad="7x")
USER_MAPPING: Final = Layout(
    "xfrm_user_mapping",
    id=USERSA_ID,
    reqid="I",
    old_saddr=ADDRESS,
    new_saddr=ADDRESS,
    old_sport=">H",
    new_sport=">H",
)
USERSA_FLUSH: Final = Layout("xfrm_usersa_flush", proto="B")


class Change(Enum):
    """What happened to an object."""

    ADDED = "added"
    UPDATED = "updated"
    DELETED = "deleted"


class Expiry(Enum):
    """Which limit was reached."""

    SOFT = "soft"
    """Time to rekey; the object still works."""
    HARD = "hard"
    """The object is gone."""


@dataclass(frozen=True, slots=True)
class Acquire:
    """A packet needed an SA that is not there: the policy it met, the endpoints, the packet's own selector."""

    saddr: IPAddress
    daddr: IPAddress
    proto: int
    selector: Selector
    policy: Policy
    sequence: int


@dataclass(frozen=True, slots=True)
class AssociationExpired:
    association: SecurityAssociation
    expiry: Expiry


@dataclass(frozen=True, slots=True)
class PolicyExpired:
    policy: Policy
    expiry: Expiry


@dataclass(frozen=True, slots=True)
class AssociationChanged:
    """An SA was added, updated or deleted. A deleted one bears its final counters."""

    change: Change
    association: SecurityAssociation


@dataclass(frozen=True, slots=True)
class AssociationsFlushed:
    """All SAs of a protocol are gone; 0 and 255 are all protocols."""

    proto: int


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    change: Change
    policy: Policy


@dataclass(frozen=True, slots=True)
class PoliciesFlushed:
    type: PolicyType


@dataclass(frozen=True, slots=True)
class Migrated:
    """Somebody migrated a policy's SAs, or rang the doorbell."""

    selector: Selector
    direction: Direction
    migrations: tuple[Migration, ...]
    key_manager: KeyManagerAddress | None = None
    encapsulation: Encapsulation | None = None


@dataclass(frozen=True, slots=True)
class MappingChanged:
    """The NAT in front of the peer of a UDP-encapsulated SA chose another address or port."""

    association: AssociationId
    reqid: int
    old_saddr: IPAddress
    new_saddr: IPAddress
    old_sport: int
    new_sport: int


@dataclass(frozen=True, slots=True)
class Overrun:
    """Events were lost because nobody read them fast enough: read the state again."""


@dataclass(frozen=True, slots=True)
class Unrecognised:
    """A message of a kind, or of a form, that is not known here."""

    type: MessageType
    reason: str


Event = (
    Acquire
    | AssociationExpired
    | PolicyExpired
    | AssociationChanged
    | AssociationsFlushed
    | PolicyChanged
    | PoliciesFlushed
    | Migrated
    | MappingChanged
    | Overrun
    | Unrecognised
)


def decode_event(message: Message) -> Event:
    """The event in a multicast message. Never raises."""
    kind = MessageType(message.type)
    decoder = _DECODERS.get(kind)
    if decoder is None:
        return Unrecognised(kind, "no event of this kind is known")
    try:
        return decoder(kind, message.payload)
    except XfrmDecodeError as error:
        return Unrecognised(kind, str(error))


def _acquire(_: MessageType, data: bytes) -> Acquire:
    head = USER_ACQUIRE.unpack(data)
    policy = Policy.from_parts(head["policy"], decode_attributes(data[USER_ACQUIRE.size :]))
    selector = Selector.decode(head["sel"])
    return Acquire(
        decode_address(head["saddr"], selector.family),
        decode_address(head["daddr"], selector.family),
        head["proto"],
        selector,
        policy,
        head["seq"],
    )


def _association_expired(_: MessageType, data: bytes) -> AssociationExpired:
    head = USER_EXPIRE.unpack(data)
    association = SecurityAssociation.from_parts(head["state"], decode_attributes(data[USER_EXPIRE.size :]))
    return AssociationExpired(association, Expiry.HARD if head["hard"] else Expiry.SOFT)


def _policy_expired(_: MessageType, data: bytes) -> PolicyExpired:
    head = USER_POLEXPIRE.unpack(data)
    policy = Policy.from_parts(head["pol"], decode_attributes(data[USER_POLEXPIRE.size :]))
    return PolicyExpired(policy, Expiry.HARD if head["hard"] else Expiry.SOFT)


def _association_changed(kind: MessageType, data: bytes) -> AssociationChanged:
    change = Change.ADDED if kind is MessageType.NEWSA else Change.UPDATED
    return AssociationChanged(change, SecurityAssociation.decode(data))


def _association_deleted(_: MessageType, data: bytes) -> AssociationChanged:
    """The structure is an identifier here; the SA itself is in the attribute XFRMA_SA."""
    USERSA_ID.unpack(data)
    info, others = _take("XFRM_MSG_DELSA", AttributeType.SA, data[USERSA_ID.size :])
    return AssociationChanged(Change.DELETED, SecurityAssociation.from_parts(info, others))


def _policy_changed(kind: MessageType, data: bytes) -> PolicyChanged:
    change = Change.ADDED if kind is MessageType.NEWPOLICY else Change.UPDATED
    return PolicyChanged(change, Policy.decode(data))


def _policy_deleted(_: MessageType, data: bytes) -> PolicyChanged:
    """As for an SA; the attribute is XFRMA_POLICY."""
    USERPOLICY_ID.unpack(data)
    info, others = _take("XFRM_MSG_DELPOLICY", AttributeType.POLICY, data[USERPOLICY_ID.size :])
    return PolicyChanged(Change.DELETED, Policy.from_parts(info, others))


def _associations_flushed(_: MessageType, data: bytes) -> AssociationsFlushed:
    return AssociationsFlushed(USERSA_FLUSH.unpack(data)["proto"])


def _policies_flushed(_: MessageType, data: bytes) -> PoliciesFlushed:
    kind = PolicyType.MAIN
    for attribute in decode_attributes(data):
        if attribute.kind == AttributeType.POLICY_TYPE:
            kind = PolicyType(USERPOLICY_TYPE.exactly(attribute.payload)["type"])
    return PoliciesFlushed(kind)


def _migrated(_: MessageType, data: bytes) -> Migrated:
    head = USERPOLICY_ID.unpack(data)
    migrations: tuple[Migration, ...] = ()
    key_manager = encapsulation = None
    for attribute in decode_attributes(data[USERPOLICY_ID.size :]):
        match attribute.kind:
            case AttributeType.MIGRATE:
                migrations += decode_migrations(attribute.payload)
            case AttributeType.KMADDRESS:
                key_manager = KeyManagerAddress.decode(attribute.payload)
            case AttributeType.ENCAP:
                encapsulation = Encapsulation.decode(attribute.payload)
    return Migrated(Selector.decode(head["sel"]), Direction(head["dir"]), migrations, key_manager, encapsulation)


def _mapping_changed(_: MessageType, data: bytes) -> MappingChanged:
    head = USER_MAPPING.unpack(data)
    item = USERSA_ID.unpack(head["id"])
    family = decode_family(USERSA_ID.name, item["family"])
    mark = NO_MARK
    for attribute in decode_attributes(data[USER_MAPPING.size :]):
        if attribute.kind == AttributeType.MARK:
            mark = Mark.decode(attribute.payload)
    return MappingChanged(
        AssociationId(decode_address(item["daddr"], family), item["spi"], item["proto"], mark),
        head["reqid"],
        decode_address(head["old_saddr"], family),
        decode_address(head["new_saddr"], family),
        head["old_sport"],
        head["new_sport"],
    )


def _take(structure: str, kind: AttributeType, data: bytes) -> tuple[bytes, list[Attribute]]:
    """The payload of one required attribute, and the others."""
    attributes = list(decode_attributes(data))
    for attribute in attributes:
        if attribute.kind == kind:
            return attribute.payload, [other for other in attributes if other is not attribute]
    raise XfrmDecodeError(structure, f"XFRMA_{kind.name} is missing")


_DECODERS: Final[dict[MessageType, Callable[[MessageType, bytes], Event]]] = {
    MessageType.ACQUIRE: _acquire,
    MessageType.EXPIRE: _association_expired,
    MessageType.POLEXPIRE: _policy_expired,
    MessageType.NEWSA: _association_changed,
    MessageType.UPDSA: _association_changed,
    MessageType.DELSA: _association_deleted,
    MessageType.FLUSHSA: _associations_flushed,
    MessageType.NEWPOLICY: _policy_changed,
    MessageType.UPDPOLICY: _policy_changed,
    MessageType.DELPOLICY: _policy_deleted,
    MessageType.FLUSHPOLICY: _policies_flushed,
    MessageType.MIGRATE: _migrated,
    MessageType.MAPPING: _mapping_changed,
}

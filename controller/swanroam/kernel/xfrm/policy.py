"""One policy of the SPD: struct xfrm_userpolicy_info with its attributes.

Source: include/uapi/linux/xfrm.h; copy_to_user_policy, copy_templates and xfrm_add_policy in net/xfrm/xfrm_user.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final, NamedTuple, Self

from swanroam.kernel.xfrm.codec import (
    ADDRESS,
    Attribute,
    IPAddress,
    Layout,
    decode_address,
    decode_attributes,
    decode_family,
    decode_u32,
    encode_address,
    encode_attributes,
    u32,
)
from swanroam.kernel.xfrm.constants import (
    IPPROTO_ESP,
    Action,
    AttributeType,
    Direction,
    Family,
    Mode,
    PolicyFlags,
    PolicyType,
)
from swanroam.kernel.xfrm.errors import XfrmDecodeError
from swanroam.kernel.xfrm.lifetimes import (
    LIFETIME_CFG,
    LIFETIME_CUR,
    NO_LIMITS,
    NO_MARK,
    UNUSED,
    LifetimeLimits,
    LifetimeUsage,
    Mark,
)
from swanroam.kernel.xfrm.selectors import SELECTOR, Selector

USERPOLICY_INFO: Final = Layout(
    "xfrm_userpolicy_info",
    sel=SELECTOR,
    lft=LIFETIME_CFG,
    curlft=LIFETIME_CUR,
    priority="I",
    index="I",
    dir="B",
    action="B",
    flags="B",
    share="B",
    pad="4x",
)
USERPOLICY_ID: Final = Layout("xfrm_userpolicy_id", sel=SELECTOR, index="I", dir="B", pad="3x")
USERPOLICY_TYPE: Final = Layout("xfrm_userpolicy_type", type="B", pad1="1x", reserved1="H", reserved2="B", pad2="1x")
USER_TMPL: Final = Layout(
    "xfrm_user_tmpl",
    daddr=ADDRESS,
    spi=">I",
    proto="B",
    pad1="3x",
    family="H",
    pad2="2x",
    saddr=ADDRESS,
    reqid="I",
    mode="B",
    share="B",
    optional="B",
    pad3="1x",
    aalgos="I",
    ealgos="I",
    calgos="I",
)

ALL_ALGORITHMS: Final = 0xFFFFFFFF
_ANY: Final = IPv4Address(0)


@dataclass(frozen=True, slots=True)
class Template:
    """What an SA must be to serve the policy. Transport mode takes its addresses from the packet: leave them zero.

    `optional` is ip's "level use": on input a packet without this transform passes too.
    """

    reqid: int = 0
    mode: Mode = Mode.TRANSPORT
    proto: int = IPPROTO_ESP
    saddr: IPAddress = _ANY
    daddr: IPAddress = _ANY
    family: Family = Family.INET
    spi: int = 0
    share: int = 0
    optional: int = 0
    aalgos: int = ALL_ALGORITHMS
    ealgos: int = ALL_ALGORITHMS
    calgos: int = ALL_ALGORITHMS

    def encode(self) -> bytes:
        return USER_TMPL.pack(
            daddr=encode_address(self.daddr),
            spi=self.spi,
            proto=self.proto,
            family=self.family,
            saddr=encode_address(self.saddr),
            reqid=self.reqid,
            mode=self.mode,
            share=self.share,
            optional=self.optional,
            aalgos=self.aalgos,
            ealgos=self.ealgos,
            calgos=self.calgos,
        )

    @classmethod
    def decode(cls, data: bytes, offset: int = 0) -> Self:
        item = USER_TMPL.unpack(data, offset)
        family = decode_family(USER_TMPL.name, item["family"])
        return cls(
            item["reqid"],
            Mode(item["mode"]),
            item["proto"],
            decode_address(item["saddr"], family),
            decode_address(item["daddr"], family),
            family,
            item["spi"],
            item["share"],
            item["optional"],
            item["aalgos"],
            item["ealgos"],
            item["calgos"],
        )


def decode_templates(data: bytes) -> tuple[Template, ...]:
    """The array in XFRMA_TMPL."""
    if len(data) % USER_TMPL.size:
        raise XfrmDecodeError("XFRMA_TMPL", f"{len(data)} octets are not a number of templates")
    return tuple(Template.decode(data, offset) for offset in range(0, len(data), USER_TMPL.size))


class PolicyKey(NamedTuple):
    """What makes a policy the same policy for the kernel: one of each key can exist. Priority is not part of it."""

    type: PolicyType
    direction: Direction
    selector: Selector
    mark: Mark
    if_id: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as it is written and read. Lower `priority` is asked first.

    Two policies are equal when the kernel would treat packets alike by them: `index` and `usage`, which the kernel
    fills in, do not count. Attributes that this program has no name for are kept in `others`.
    """

    selector: Selector
    direction: Direction
    action: Action = Action.ALLOW
    priority: int = 0
    templates: tuple[Template, ...] = ()
    mark: Mark = NO_MARK
    if_id: int = 0
    flags: PolicyFlags = PolicyFlags.NONE
    share: int = 0
    type: PolicyType = PolicyType.MAIN
    limits: LifetimeLimits = NO_LIMITS
    others: tuple[Attribute, ...] = ()
    index: int = field(default=0, compare=False)
    usage: LifetimeUsage = field(default=UNUSED, compare=False)

    @property
    def key(self) -> PolicyKey:
        return PolicyKey(self.type, self.direction, self.selector, self.mark, self.if_id)

    def __str__(self) -> str:
        text = f"{self.direction.name.lower()} {self.action.name.lower()} {self.selector} priority {self.priority}"
        if self.mark:
            text += f" mark {self.mark}"
        if self.if_id:
            text += f" if_id {self.if_id:#x}"
        for template in self.templates:
            text += f" tmpl proto {template.proto} {template.mode.name.lower()} reqid {template.reqid}"
        return text

    def encode(self) -> bytes:
        """Body of XFRM_MSG_NEWPOLICY and XFRM_MSG_UPDPOLICY."""
        head = USERPOLICY_INFO.pack(
            sel=self.selector.encode(),
            lft=self.limits.encode(),
            curlft=self.usage.encode(),
            priority=self.priority,
            index=self.index,
            dir=self.direction,
            action=self.action,
            flags=self.flags,
            share=self.share,
        )
        attributes = []
        if self.templates:
            body = b"".join(template.encode() for template in self.templates)
            attributes.append(Attribute(AttributeType.TMPL, body))
        return head + encode_attributes([*attributes, *_distinguishing(self.key), *self.others])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From the body of a policy message: the structure, then attributes."""
        return cls.from_parts(data, decode_attributes(data[USERPOLICY_INFO.size :]))

    @classmethod
    def from_parts(cls, info: bytes, attributes: Iterable[Attribute]) -> Self:
        """From struct xfrm_userpolicy_info and the attributes, which some messages carry in another order."""
        head = USERPOLICY_INFO.unpack(info)
        templates: tuple[Template, ...] = ()
        mark, if_id, kind, others = NO_MARK, 0, PolicyType.MAIN, []
        for attribute in attributes:
            match attribute.kind:
                case AttributeType.TMPL:
                    templates = decode_templates(attribute.payload)
                case AttributeType.MARK:
                    mark = Mark.decode(attribute.payload)
                case AttributeType.IF_ID:
                    if_id = decode_u32(attribute)
                case AttributeType.POLICY_TYPE:
                    kind = PolicyType(USERPOLICY_TYPE.exactly(attribute.payload)["type"])
                case AttributeType.PAD:
                    pass
                case _:
                    others.append(attribute)
        return cls(
            Selector.decode(head["sel"]),
            Direction(head["dir"]),
            Action(head["action"]),
            head["priority"],
            templates,
            mark,
            if_id,
            PolicyFlags(head["flags"]),
            head["share"],
            kind,
            LifetimeLimits.decode(head["lft"]),
            tuple(others),
            head["index"],
            LifetimeUsage.decode(head["curlft"]),
        )


def encode_policy_id(key: PolicyKey) -> bytes:
    """Body of XFRM_MSG_DELPOLICY and XFRM_MSG_GETPOLICY: the policy with exactly this key."""
    head = USERPOLICY_ID.pack(sel=key.selector.encode(), dir=key.direction)
    return head + encode_attributes(_distinguishing(key))


def _distinguishing(key: PolicyKey) -> list[Attribute]:
    """The parts of a policy's key that travel as attributes."""
    attributes = []
    if key.type is not PolicyType.MAIN:
        attributes.append(Attribute(AttributeType.POLICY_TYPE, USERPOLICY_TYPE.pack(type=key.type)))
    if key.mark:
        attributes.append(Attribute(AttributeType.MARK, key.mark.encode()))
    if key.if_id:
        attributes.append(Attribute(AttributeType.IF_ID, u32(key.if_id)))
    return attributes

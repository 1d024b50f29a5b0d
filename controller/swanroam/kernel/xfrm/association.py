"""One security association of the SAD: struct xfrm_usersa_info with its attributes.

Source: include/uapi/linux/xfrm.h; copy_to_user_state_extra, xfrm_state_construct and verify_newsa_info in
net/xfrm/xfrm_user.c. A decoded SA that is encoded again is the SA that the kernel described: what has no name here
(security context, hardware offload, NAT keepalive, IP-TFS) is kept as it came, so a clone is complete.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from swanroam.kernel.xfrm.algorithms import AeadAlgorithm, Algorithm, TruncatedAuthentication
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
    family_of,
    u32,
)
from swanroam.kernel.xfrm.constants import (
    IPPROTO_AH,
    IPPROTO_ESP,
    AttributeType,
    ExtraFlags,
    Family,
    Mode,
    SaDirection,
    StateFlags,
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
from swanroam.kernel.xfrm.replay import EsnReplayState, ReplayState
from swanroam.kernel.xfrm.selectors import SELECTOR, Selector

STATS: Final = Layout("xfrm_stats", replay_window="I", replay="I", integrity_failed="I")
USERSA_INFO: Final = Layout(
    "xfrm_usersa_info",
    sel=SELECTOR,
    daddr=ADDRESS,
    spi=">I",
    proto="B",
    pad1="3x",
    saddr=ADDRESS,
    lft=LIFETIME_CFG,
    curlft=LIFETIME_CUR,
    stats=STATS,
    seq="I",
    reqid="I",
    family="H",
    mode="B",
    replay_window="B",
    flags="B",
    pad2="7x",
)
USERSA_ID: Final = Layout("xfrm_usersa_id", daddr=ADDRESS, spi=">I", family="H", proto="B", pad="1x")
ENCAP_TMPL: Final = Layout(
    "xfrm_encap_tmpl", encap_type="H", encap_sport=">H", encap_dport=">H", pad="2x", encap_oa=ADDRESS
)

_PROTOCOL_NAMES: Final = {IPPROTO_ESP: "esp", IPPROTO_AH: "ah"}


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """ESP in UDP or TCP (RFC 3948): type 2 is UDP_ENCAP_ESPINUDP. `original_address` is NAT-OA, sixteen octets."""

    type: int
    sport: int
    dport: int
    original_address: bytes = bytes(16)

    def encode(self) -> bytes:
        return ENCAP_TMPL.pack(
            encap_type=self.type, encap_sport=self.sport, encap_dport=self.dport, encap_oa=self.original_address
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        item = ENCAP_TMPL.exactly(data)
        return cls(item["encap_type"], item["encap_sport"], item["encap_dport"], item["encap_oa"])


@dataclass(frozen=True, slots=True)
class StateStatistics:
    """Packets outside the window, replayed, and with a wrong ICV."""

    replay_window: int = 0
    replay: int = 0
    integrity_failed: int = 0

    def encode(self) -> bytes:
        return STATS.pack(replay_window=self.replay_window, replay=self.replay, integrity_failed=self.integrity_failed)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(**STATS.unpack(data))


NO_STATISTICS: Final = StateStatistics()


@dataclass(frozen=True, slots=True)
class AssociationId:
    """How the kernel finds one SA, for input as well: destination, SPI, protocol, and the mark that it matches."""

    daddr: IPAddress
    spi: int
    proto: int = IPPROTO_ESP
    mark: Mark = NO_MARK

    def __str__(self) -> str:
        return f"{_PROTOCOL_NAMES.get(self.proto, f'proto {self.proto}')} to {self.daddr} spi {self.spi:#010x}"

    def encode(self) -> bytes:
        """Body of XFRM_MSG_GETSA and XFRM_MSG_DELSA."""
        head = encode_association_id(self.daddr, self.spi, self.proto)
        return head + (Attribute(AttributeType.MARK, self.mark.encode()).encode() if self.mark else b"")


def encode_association_id(daddr: IPAddress, spi: int, proto: int) -> bytes:
    return USERSA_ID.pack(daddr=encode_address(daddr), spi=spi, family=family_of(daddr), proto=proto)


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """An SA as the kernel describes it. Keys are in the algorithms and do not print.

    `output_mark` (XFRMA_SET_MARK and its mask) is set on packets that the SA has transformed. `usage` holds the
    counters that the lifetime limits are compared with; it is written back, so limits are not reset by cloning.
    `sequence` ties a larval SA to its acquire; `last_used` is read only, seconds since the epoch.
    """

    selector: Selector
    saddr: IPAddress
    daddr: IPAddress
    spi: int
    proto: int = IPPROTO_ESP
    reqid: int = 0
    mode: Mode = Mode.TRANSPORT
    replay_window: int = 0
    flags: StateFlags = StateFlags.NONE
    authentication: Algorithm | None = None
    truncated_authentication: TruncatedAuthentication | None = None
    encryption: Algorithm | None = None
    compression: Algorithm | None = None
    aead: AeadAlgorithm | None = None
    encapsulation: Encapsulation | None = None
    mark: Mark = NO_MARK
    output_mark: Mark = NO_MARK
    if_id: int = 0
    tfc_padding: int = 0
    extra_flags: ExtraFlags = ExtraFlags.NONE
    direction: SaDirection = SaDirection.NONE
    replay: ReplayState | None = None
    replay_esn: EsnReplayState | None = None
    care_of_address: bytes | None = None
    limits: LifetimeLimits = NO_LIMITS
    usage: LifetimeUsage = UNUSED
    statistics: StateStatistics = NO_STATISTICS
    sequence: int = 0
    last_used: int = 0
    others: tuple[Attribute, ...] = ()

    @property
    def id(self) -> AssociationId:
        return AssociationId(self.daddr, self.spi, self.proto, self.mark)

    @property
    def family(self) -> Family:
        return family_of(self.daddr)

    def __str__(self) -> str:
        text = f"{self.saddr} -> {self.daddr} {_PROTOCOL_NAMES.get(self.proto, f'proto {self.proto}')}"
        text += f" spi {self.spi:#010x} reqid {self.reqid} {self.mode.name.lower()} sel {self.selector}"
        if self.mark:
            text += f" mark {self.mark}"
        return text

    def encode(self) -> bytes:
        """Body of XFRM_MSG_NEWSA and XFRM_MSG_UPDSA.

        The kernel reads the used-up lifetime from XFRMA_LTIME_VAL and not from the structure, so it is in both.
        """
        head = USERSA_INFO.pack(
            sel=self.selector.encode(),
            daddr=encode_address(self.daddr),
            spi=self.spi,
            proto=self.proto,
            saddr=encode_address(self.saddr),
            lft=self.limits.encode(),
            curlft=self.usage.encode(),
            stats=self.statistics.encode(),
            seq=self.sequence,
            reqid=self.reqid,
            family=self.family,
            mode=self.mode,
            replay_window=self.replay_window,
            flags=self.flags,
        )
        return head + encode_attributes(self._attributes())

    def _attributes(self) -> Iterable[Attribute]:
        structures = (
            (AttributeType.ALG_AUTH, self.authentication),
            (AttributeType.ALG_AUTH_TRUNC, self.truncated_authentication),
            (AttributeType.ALG_CRYPT, self.encryption),
            (AttributeType.ALG_COMP, self.compression),
            (AttributeType.ALG_AEAD, self.aead),
            (AttributeType.ENCAP, self.encapsulation),
            (AttributeType.REPLAY_VAL, self.replay),
            (AttributeType.REPLAY_ESN_VAL, self.replay_esn),
        )
        for kind, value in structures:
            if value is not None:
                yield Attribute(kind, value.encode())
        if self.usage:
            yield Attribute(AttributeType.LTIME_VAL, self.usage.encode())
        if self.care_of_address is not None:
            yield Attribute(AttributeType.COADDR, self.care_of_address)
        if self.mark:
            yield Attribute(AttributeType.MARK, self.mark.encode())
        numbers = (
            (AttributeType.SET_MARK, self.output_mark.value),
            (AttributeType.SET_MARK_MASK, self.output_mark.mask),
            (AttributeType.IF_ID, self.if_id),
            (AttributeType.TFCPAD, self.tfc_padding),
            (AttributeType.SA_EXTRA_FLAGS, self.extra_flags),
        )
        for kind, number in numbers:
            if number:
                yield Attribute(kind, u32(number))
        if self.direction:
            yield Attribute(AttributeType.SA_DIR, bytes((self.direction,)))
        yield from self.others

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From the body of an SA message: the structure, then attributes."""
        return cls.from_parts(data, decode_attributes(data[USERSA_INFO.size :]))

    @classmethod
    def from_parts(cls, info: bytes, attributes: Iterable[Attribute]) -> Self:
        """From struct xfrm_usersa_info and the attributes, which some messages carry elsewhere."""
        head = USERSA_INFO.unpack(info)
        family = decode_family(USERSA_INFO.name, head["family"])
        if family is Family.UNSPEC:
            raise XfrmDecodeError(USERSA_INFO.name, "an SA without address family")
        values: dict[str, Any] = {}
        others = []
        for attribute in attributes:
            decoded = _decode_attribute(attribute)
            if decoded is None:
                others.append(attribute)
            else:
                values.update(decoded)
        values["output_mark"] = Mark(values.pop("set_mark", 0), values.pop("set_mark_mask", 0))
        return cls(
            selector=Selector.decode(head["sel"]),
            saddr=decode_address(head["saddr"], family),
            daddr=decode_address(head["daddr"], family),
            spi=head["spi"],
            proto=head["proto"],
            reqid=head["reqid"],
            mode=Mode(head["mode"]),
            replay_window=head["replay_window"],
            flags=StateFlags(head["flags"]),
            limits=LifetimeLimits.decode(head["lft"]),
            usage=values.pop("usage", None) or LifetimeUsage.decode(head["curlft"]),
            statistics=StateStatistics.decode(head["stats"]),
            sequence=head["seq"],
            others=tuple(others),
            **values,
        )


def _decode_attribute(attribute: Attribute) -> dict[str, Any] | None:  # Any: the type depends on the field
    """Field of SecurityAssociation and its value; None for an attribute that has no field."""
    payload = attribute.payload
    match attribute.kind:
        case AttributeType.ALG_AUTH:
            return {"authentication": Algorithm.decode(payload)}
        case AttributeType.ALG_AUTH_TRUNC:
            return {"truncated_authentication": TruncatedAuthentication.decode(payload)}
        case AttributeType.ALG_CRYPT:
            return {"encryption": Algorithm.decode(payload)}
        case AttributeType.ALG_COMP:
            return {"compression": Algorithm.decode(payload)}
        case AttributeType.ALG_AEAD:
            return {"aead": AeadAlgorithm.decode(payload)}
        case AttributeType.ENCAP:
            return {"encapsulation": Encapsulation.decode(payload)}
        case AttributeType.REPLAY_VAL:
            return {"replay": ReplayState.decode(payload)}
        case AttributeType.REPLAY_ESN_VAL:
            return {"replay_esn": EsnReplayState.decode(payload)}
        case AttributeType.LTIME_VAL:
            return {"usage": LifetimeUsage.decode(_sized("XFRMA_LTIME_VAL", payload, LIFETIME_CUR.size))}
        case AttributeType.COADDR:
            return {"care_of_address": _sized("XFRMA_COADDR", payload, 16)}
        case AttributeType.MARK:
            return {"mark": Mark.decode(payload)}
        case AttributeType.SET_MARK:
            return {"set_mark": decode_u32(attribute)}
        case AttributeType.SET_MARK_MASK:
            return {"set_mark_mask": decode_u32(attribute)}
        case AttributeType.IF_ID:
            return {"if_id": decode_u32(attribute)}
        case AttributeType.TFCPAD:
            return {"tfc_padding": decode_u32(attribute)}
        case AttributeType.SA_EXTRA_FLAGS:
            return {"extra_flags": ExtraFlags(decode_u32(attribute))}
        case AttributeType.SA_DIR:
            return {"direction": SaDirection(_sized("XFRMA_SA_DIR", payload, 1)[0])}
        case AttributeType.LASTUSED:
            return {"last_used": int.from_bytes(_sized("XFRMA_LASTUSED", payload, 8), sys.byteorder)}
        case AttributeType.PAD:
            return {}
        case _:
            return None


def _sized(structure: str, payload: bytes, size: int) -> bytes:
    if len(payload) != size:
        raise XfrmDecodeError(structure, f"{len(payload)} octets where {size} are needed")
    return payload

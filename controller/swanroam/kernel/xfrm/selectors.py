"""struct xfrm_selector: which packets a policy or an SA is for.

Source: include/uapi/linux/xfrm.h; net/xfrm/xfrm_policy.c: matching in __xfrm4_selector_match and
__xfrm6_selector_match, equality in selector_cmp, which compares every octet, `user` included, although matching never
looks at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Self

from swanroam.kernel.xfrm.codec import (
    ADDRESS,
    IPAddress,
    IPNetwork,
    Layout,
    decode_address,
    decode_family,
    encode_address,
    family_of,
)
from swanroam.kernel.xfrm.constants import IPPROTO_ANY, Family
from swanroam.kernel.xfrm.errors import XfrmDecodeError

SELECTOR: Final = Layout(
    "xfrm_selector",
    daddr=ADDRESS,
    saddr=ADDRESS,
    dport=">H",
    dport_mask=">H",
    sport=">H",
    sport_mask=">H",
    family="H",
    prefixlen_d="B",
    prefixlen_s="B",
    proto="B",
    pad="3x",
    ifindex="i",
    user="I",
)

_PROTOCOL_NAMES: Final = {1: "icmp", 4: "ipip", 6: "tcp", 17: "udp", 41: "ipv6", 50: "esp", 51: "ah", 58: "ipv6-icmp"}


@dataclass(frozen=True, slots=True)
class Selector:
    """Addresses with prefix lengths exactly as the kernel holds them (bits outside the prefix may be set).

    `proto` 0 is any protocol. A port counts where its mask is set; for ICMP `sport` is the type and `dport` the code.
    `ifindex` is compared with the route's output device, on input with the device the local route points to (`lo`).
    `user` is a label: part of the selector's identity, ignored by matching. `between` is the usual constructor.
    """

    saddr: IPAddress
    daddr: IPAddress
    prefixlen_s: int
    prefixlen_d: int
    family: Family
    proto: int = IPPROTO_ANY
    sport: int = 0
    sport_mask: int = 0
    dport: int = 0
    dport_mask: int = 0
    ifindex: int = 0
    user: int = 0

    @classmethod
    def between(
        cls,
        source: IPNetwork | IPAddress,
        destination: IPNetwork | IPAddress,
        *,
        protocol: int = IPPROTO_ANY,
        source_port: int | None = None,
        destination_port: int | None = None,
        ifindex: int = 0,
        user: int = 0,
    ) -> Self:
        """A selector for packets from `source` to `destination`. Raises ValueError when their families differ."""
        if source.version != destination.version:
            raise ValueError(f"selector from {source} to {destination}: the address families differ")
        saddr, prefixlen_s = _split(source)
        daddr, prefixlen_d = _split(destination)
        return cls(
            saddr,
            daddr,
            prefixlen_s,
            prefixlen_d,
            family_of(saddr),
            protocol,
            source_port or 0,
            0 if source_port is None else 0xFFFF,
            destination_port or 0,
            0 if destination_port is None else 0xFFFF,
            ifindex,
            user,
        )

    @property
    def source(self) -> IPNetwork:
        """Source prefix. For AF_UNSPEC read as IPv6, usually ::/0."""
        return _network(self.saddr, self.prefixlen_s)

    @property
    def destination(self) -> IPNetwork:
        """Destination prefix, as `source`."""
        return _network(self.daddr, self.prefixlen_d)

    def __str__(self) -> str:
        text = f"{self.saddr}/{self.prefixlen_s} -> {self.daddr}/{self.prefixlen_d}"
        if self.proto:
            text += f" {_PROTOCOL_NAMES.get(self.proto, f'proto {self.proto}')}"
        if self.sport_mask:
            text += f" sport {self.sport}"
        if self.dport_mask:
            text += f" dport {self.dport}"
        if self.ifindex:
            text += f" ifindex {self.ifindex}"
        return text

    def encode(self) -> bytes:
        return SELECTOR.pack(
            daddr=encode_address(self.daddr),
            saddr=encode_address(self.saddr),
            dport=self.dport,
            dport_mask=self.dport_mask,
            sport=self.sport,
            sport_mask=self.sport_mask,
            family=self.family,
            prefixlen_d=self.prefixlen_d,
            prefixlen_s=self.prefixlen_s,
            proto=self.proto,
            ifindex=self.ifindex,
            user=self.user,
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        field = SELECTOR.unpack(data)
        family = decode_family("xfrm_selector", field["family"])
        longest = 32 if family is Family.INET else 128
        if max(field["prefixlen_s"], field["prefixlen_d"]) > longest:
            raise XfrmDecodeError("xfrm_selector", f"a prefix length over {longest}")
        return cls(
            decode_address(field["saddr"], family),
            decode_address(field["daddr"], family),
            field["prefixlen_s"],
            field["prefixlen_d"],
            family,
            field["proto"],
            field["sport"],
            field["sport_mask"],
            field["dport"],
            field["dport_mask"],
            field["ifindex"],
            field["user"],
        )


def _split(end: IPNetwork | IPAddress) -> tuple[IPAddress, int]:
    if isinstance(end, IPv4Network | IPv6Network):
        return end.network_address, end.prefixlen
    return end, end.max_prefixlen


def _network(address: IPAddress, length: int) -> IPNetwork:
    if address.version == 4:
        return IPv4Network((int(address), length), strict=False)
    return IPv6Network((int(address), length), strict=False)

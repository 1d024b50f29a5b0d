"""What may come out of the carrier: a filter on the ingress of each carrier device.

A device in external mode decapsulates IP-in-IP from everybody to everybody, which without a filter is a way around
firewalls and address checks (CVE-2020-10136, RFC 6169 §2; RFC 6275 §15.7). So everything is dropped at the device's
ingress, before routing, except for admitted pairs of inner addresses:

- ESP, which authenticates itself: the SA decides. Fragments of it as well, IPv6 fragment headers included.
- IKE (UDP to port 500 or 4500), which authenticates itself, too. Fragments of IKE datagrams are dropped: charon
  fragments inside IKE (RFC 7383, on by default), and behind the first fragment nobody could tell the port.
- What an admitted packet contained, once IPsec has taken it apart: the kernel runs the inner packet of a tunnel-mode
  SA through the ingress of the device on which its ESP came. It is told by the mark that admitted packets get here and
  keep through decryption; the security policies, which come next, check that it was protected.
- With `clear` everything of the pair that came between two given outer addresses; it gets a mark that a security policy
  can ask for. Only for packets whose outer packet was protected by ESP: that this is so is enforced by the security
  policies of just these outer addresses, not here.

For ESP and IKE the outer addresses are deliberately not compared: the first address change message comes from an
address that is not known yet, and what protects it is its ESP, not where it came from. A forged outer header therefore
gains nothing that the same ESP packet without one would not have.

Found again by where they are: everything in the ingress hook of our own devices is ours.
Source: tc-flower(8), tc-matchall(8); net/core/flow_dissector.c for fragments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from socket import AF_INET, IPPROTO_ESP, IPPROTO_UDP, AddressFamily, htons
from typing import Any, Final

from pyroute2.netlink.rtnl import (
    RTM_DELTFILTER,
    RTM_GETQDISC,
    RTM_GETTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    TC_H_CLSACT,
)
from pyroute2.netlink.rtnl.tcmsg import tcmsg
from pyroute2.netlink.rtnl.tcmsg.common_act import get_tca_action

from swanroam.kernel.rtnetlink import ADD, FilterMessage, IPAddress, RouteSocket

IKE_PORTS: Final = (500, 4500)

_CLSACT_HANDLE: Final = 0xFFFF0000
_INGRESS: Final = 0xFFFFFFF2  # TC_H_CLSACT with minor TC_H_MIN_INGRESS
_ETH_P_ALL: Final = 0x0003
_ETHERTYPES: Final = {4: 0x0800, 6: 0x86DD}


class _Priority(IntEnum):
    """Order in which the kernel asks the filters; lower first."""

    DECRYPTED = 1
    PROTECTED = 2
    CLEAR = 3  # after PROTECTED: an inner ESP or IKE packet must not get the mark of clear ones
    DROP = 0xFFFF


@dataclass(frozen=True, slots=True)
class Clear:
    """Packets may be clear inside the carrier whose outer packets go `outer_remote` -> `outer_local`.

    They get `mark`, a skb mark that is not 0, for security policies to ask for.
    """

    mark: int
    outer_remote: IPAddress
    outer_local: IPAddress

    def __post_init__(self) -> None:
        if not 0 < self.mark <= 0xFFFFFFFF:
            raise ValueError(f"mark {self.mark} of clear inner packets is 0 or not of 32 bits")


@dataclass(frozen=True, slots=True)
class Admitted:
    """Packets `remote` -> `local` that may come out of the carrier: ESP and IKE, and with `clear` everything."""

    remote: IPAddress
    local: IPAddress
    clear: Clear | None = None

    def __post_init__(self) -> None:
        outer = () if self.clear is None else (self.clear.outer_remote, self.clear.outer_local)
        if len({address.version for address in (self.remote, self.local, *outer)}) != 1:
            raise ValueError(f"admitted pair {self.remote} -> {self.local}: all addresses must be of one family")


@dataclass(frozen=True, slots=True)
class _Filter:
    """One flower filter. `ip_protocol` 0: any; `port` 0: any; without `clear` packets get the mark of admitted ones."""

    remote: IPAddress
    local: IPAddress
    ip_protocol: int
    port: int = 0
    clear: Clear | None = None

    def __str__(self) -> str:
        match self.ip_protocol:
            case 0 if self.clear is not None:
                outer = f"{self.clear.outer_remote} -> {self.clear.outer_local}"
                what = f"everything inside {outer}, mark {self.clear.mark:#x}"
            case _ if self.ip_protocol == IPPROTO_ESP:
                what = "ESP"
            case _:
                what = f"UDP port {self.port}"
        return f"filter {self.remote} -> {self.local} {what}"

    @property
    def priority(self) -> _Priority:
        return _Priority.PROTECTED if self.ip_protocol else _Priority.CLEAR


@dataclass(frozen=True, slots=True)
class _Installed:
    """A flower filter as found, with what is needed to delete it; `filter` is None when it is none of those we make."""

    handle: int
    priority: int
    ethertype: int
    filter: _Filter | None


def _filters(admitted: Iterable[Admitted]) -> set[_Filter]:
    wanted: set[_Filter] = set()
    for pair in admitted:
        wanted.add(_Filter(pair.remote, pair.local, IPPROTO_ESP))
        wanted |= {_Filter(pair.remote, pair.local, IPPROTO_UDP, port) for port in IKE_PORTS}
        if pair.clear is not None:
            wanted.add(_Filter(pair.remote, pair.local, 0, clear=pair.clear))
    return wanted


class Ingress:
    """The ingress filter of one carrier device. `admitted_mark`: skb mark of admitted packets, not 0."""

    def __init__(self, netlink: RouteSocket, family: AddressFamily, index: int, admitted_mark: int) -> None:
        self._netlink = netlink
        self._admitted_mark = admitted_mark
        self._version = 4 if family == AF_INET else 6
        self._index = index
        self._name = f"swanroam{self._version}"

    async def close(self) -> None:
        """Drop everything that is not admitted. Idempotent; to be called before the device is set up.

        Raises RouteSocketError: EOPNOTSUPP or ENOENT when the kernel lacks sch_ingress, cls_matchall, cls_fw or
        act_gact.
        """
        qdiscs = await self._netlink.listing(self._message(tcmsg, 0), RTM_GETQDISC, "list queueing disciplines")
        if not any(q["index"] == self._index and q.get_attr("TCA_KIND") == "clsact" for q in qdiscs):
            message = self._message(tcmsg, TC_H_CLSACT, handle=_CLSACT_HANDLE)
            message["attrs"] = [("TCA_KIND", "clsact")]
            await self._netlink.execute(message, RTM_NEWQDISC, ADD, f"add clsact to {self._name}")
        if await self._default_drop() is None:
            message = self._message(FilterMessage, _INGRESS, handle=1)
            message["info"] = _Priority.DROP << 16 | htons(_ETH_P_ALL)
            action = get_tca_action({"action": "drop"})
            message["attrs"] = [
                ("TCA_KIND", "matchall"),
                ("TCA_OPTIONS", {"attrs": [("TCA_MATCHALL_ACT", action)]}),
            ]
            await self._netlink.execute(message, RTM_NEWTFILTER, ADD, f"add default drop to {self._name}")
        if not await self._filters_of("fw"):
            message = self._message(FilterMessage, _INGRESS, handle=self._admitted_mark)
            message["info"] = _Priority.DECRYPTED << 16 | htons(_ETH_P_ALL)
            action = get_tca_action({"action": "ok"})
            message["attrs"] = [("TCA_KIND", "fw"), ("TCA_OPTIONS", {"attrs": [("TCA_FW_ACT", action)]})]
            what = f"add filter for decrypted packets to {self._name}"
            await self._netlink.execute(message, RTM_NEWTFILTER, ADD, what)

    async def find(self) -> frozenset[Admitted]:
        """The pairs that are admitted now; half-made ones do not count. Raises RouteSocketError."""
        present = {installed.filter for installed in await self._installed() if installed.filter is not None}
        clear = {(item.remote, item.local): item.clear for item in present if not item.ip_protocol}
        pairs = {(item.remote, item.local) for item in present}
        found = {Admitted(*pair, clear=clear.get(pair)) for pair in pairs}
        return frozenset(pair for pair in found if _filters([pair]) <= present)

    async def admit(self, admitted: Collection[Admitted]) -> list[str]:
        """Add the filters that are missing for these pairs. Returns what was added. Raises RouteSocketError."""
        present = {installed.filter for installed in await self._installed()}
        missing = sorted(_filters(admitted) - present, key=str)
        for item in missing:
            await self._netlink.execute(self._flower(item), RTM_NEWTFILTER, ADD, f"add {item} to {self._name}")
        return [str(item) for item in missing]

    async def retain(self, admitted: Collection[Admitted]) -> list[str]:
        """Remove all filters but those of these pairs and the default drop. Returns what was removed.

        Raises RouteSocketError.
        """
        wanted = _filters(admitted)
        removed: list[str] = []
        for installed in await self._installed():
            if installed.filter in wanted:
                wanted.discard(installed.filter)  # a second one like it is superfluous
                continue
            message = self._message(FilterMessage, _INGRESS, handle=installed.handle)
            message["info"] = installed.priority << 16 | htons(installed.ethertype)
            message["attrs"] = [("TCA_KIND", "flower")]
            what = str(installed.filter or f"foreign filter {installed.handle:#x}")
            await self._netlink.remove(message, RTM_DELTFILTER, f"remove {what} from {self._name}")
            removed.append(what)
        return removed

    async def dropped(self) -> int:
        """How many decapsulated packets were not admitted since the device exists. Raises RouteSocketError."""
        message = await self._default_drop()
        if message is None:
            return 0
        statistics = message.get_nested(
            "TCA_OPTIONS", "TCA_MATCHALL_ACT", "TCA_ACT_PRIO_1", "TCA_ACT_STATS", "TCA_STATS_BASIC"
        )
        return int(statistics["packets"])

    def _message(self, kind: type[Any], parent: int, handle: int = 0) -> Any:
        message = kind()
        message["index"], message["parent"], message["handle"] = self._index, parent, handle
        return message

    async def _filters_of(self, kind: str) -> list[Any]:
        request = self._message(FilterMessage, _INGRESS)
        answers = await self._netlink.listing(request, RTM_GETTFILTER, f"list filters of {self._name}")
        # A classifier without filters, and each one's head, is listed without options.
        return [a for a in answers if a.get_attr("TCA_KIND") == kind and a.get_attr("TCA_OPTIONS") is not None]

    async def _default_drop(self) -> Any:
        drops = await self._filters_of("matchall")
        return next((drop for drop in drops if drop["info"] >> 16 == _Priority.DROP), None)

    async def _installed(self) -> list[_Installed]:
        return [
            _Installed(m["handle"], m["info"] >> 16, htons(m["info"] & 0xFFFF), _decode(m.get_attr("TCA_OPTIONS")))
            for m in await self._filters_of("flower")
        ]

    def _flower(self, item: _Filter) -> Any:
        version, ethertype = self._version, _ETHERTYPES[self._version]
        ones = "255.255.255.255" if version == 4 else "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        mark = self._admitted_mark if item.clear is None else item.clear.mark
        actions: list[dict[str, object]] = [{"kind": "skbedit", "mark": mark}, {"kind": "gact", "action": "ok"}]
        options: list[tuple[str, object]] = [
            ("TCA_FLOWER_ACT", get_tca_action({"action": actions})),
            ("TCA_FLOWER_KEY_ETH_TYPE", ethertype),
            (f"TCA_FLOWER_KEY_IPV{version}_SRC", str(item.remote)),
            (f"TCA_FLOWER_KEY_IPV{version}_SRC_MASK", ones),
            (f"TCA_FLOWER_KEY_IPV{version}_DST", str(item.local)),
            (f"TCA_FLOWER_KEY_IPV{version}_DST_MASK", ones),
        ]
        if item.ip_protocol:
            options.append(("TCA_FLOWER_KEY_IP_PROTO", item.ip_protocol))
        if item.port:
            options.append(("TCA_FLOWER_KEY_UDP_DST", item.port))
            options.append(("TCA_FLOWER_KEY_UDP_DST_MASK", 0xFFFF))
        if item.clear is not None:
            options += [
                (f"TCA_FLOWER_KEY_ENC_IPV{version}_SRC", str(item.clear.outer_remote)),
                (f"TCA_FLOWER_KEY_ENC_IPV{version}_SRC_MASK", ones),
                (f"TCA_FLOWER_KEY_ENC_IPV{version}_DST", str(item.clear.outer_local)),
                (f"TCA_FLOWER_KEY_ENC_IPV{version}_DST_MASK", ones),
            ]
        message = self._message(FilterMessage, _INGRESS)
        message["info"] = item.priority << 16 | htons(ethertype)
        message["attrs"] = [("TCA_KIND", "flower"), ("TCA_OPTIONS", {"attrs": options})]
        return message


def _decode(options: Any) -> _Filter | None:
    """The filter that these flower options describe, None when it is not of the kind that we make."""
    version = 4 if options.get_attr("TCA_FLOWER_KEY_ETH_TYPE") == _ETHERTYPES[4] else 6
    remote = options.get_attr(f"TCA_FLOWER_KEY_IPV{version}_SRC")
    local = options.get_attr(f"TCA_FLOWER_KEY_IPV{version}_DST")
    masks = {
        ip_address(mask).packed.count(255)
        for side in ("SRC", "DST")
        if (mask := options.get_attr(f"TCA_FLOWER_KEY_IPV{version}_{side}_MASK")) is not None
    }
    if remote is None or local is None or masks != {4 if version == 4 else 16}:
        return None
    ip_protocol = options.get_attr("TCA_FLOWER_KEY_IP_PROTO") or 0
    mark = options.get_nested("TCA_FLOWER_ACT", "TCA_ACT_PRIO_1", "TCA_ACT_OPTIONS", "TCA_SKBEDIT_MARK")
    outer = [options.get_attr(f"TCA_FLOWER_KEY_ENC_IPV{version}_{side}") for side in ("SRC", "DST")]
    clear = None
    if not ip_protocol:
        if not mark or None in outer:
            return None
        clear = Clear(mark, *map(ip_address, outer))
    return _Filter(
        ip_address(remote),
        ip_address(local),
        ip_protocol,
        options.get_attr("TCA_FLOWER_KEY_UDP_DST") or 0,
        clear,
    )

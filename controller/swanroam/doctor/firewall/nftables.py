"""What `nft -j list ruleset` prints. Source: libnftables-json(5)."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import Any, Final

from swanroam.doctor.firewall.packets import UDP, Field
from swanroam.doctor.firewall.rules import UNFORESEEABLE, Chain, Effect, End, Holds, Hook, Jump, Match, Rule, Table

_FAMILIES: Final = {"ip": {4}, "ip6": {6}, "inet": {4, 6}, "netdev": {4, 6}}
_VERDICTS: Final = {
    "accept": End.ACCEPTED,
    "drop": End.DROPPED,
    "reject": End.DROPPED,
    "return": End.RETURNED,
    "continue": End.GOES_ON,
}
_META: Final = {
    "l4proto": Field.PROTOCOL,
    "iifname": Field.IN_INTERFACE,
    "iif": Field.IN_INTERFACE,
    "oifname": Field.OUT_INTERFACE,
    "oif": Field.OUT_INTERFACE,
    "ipsec": Field.IPSEC,
    "secpath": Field.IPSEC,
    "nfproto": Field.FAMILY,
}
_ADDRESSES: Final = {"saddr": Field.SOURCE, "daddr": Field.DESTINATION}
_PORTS: Final = {"sport": Field.SOURCE_PORT, "dport": Field.DESTINATION_PORT}
_NEXT: Final = {"protocol": Field.PROTOCOL, "nexthdr": Field.PROTOCOL}
IPTABLES_CHAINS: Final = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
"""Names of base chains that are iptables-nft's: what they hold is shown more fully by iptables-save."""


def read_nftables(text: str) -> list[Table]:
    """The tables with the chains that see this host's own packets. Raises ValueError for what is no such document."""
    try:
        entries = json.loads(text)["nftables"]
        return _tables(entries)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"nft printed what is no ruleset: {error!r}") from error


def without_iptables(tables: Iterable[Table]) -> list[Table]:
    """Those that were not made by iptables-nft."""
    return [table for table in tables if not (table.families != {4, 6} and IPTABLES_CHAINS & set(table.chains))]


def _tables(entries: list[dict[str, Any]]) -> list[Table]:
    sets = {
        (entry["set"]["family"], entry["set"]["table"], entry["set"]["name"]): entry["set"].get("elem", [])
        for entry in entries
        if "set" in entry and "timeout" not in entry["set"].get("flags", [])
    }
    chains: dict[tuple[str, str], dict[str, Chain]] = {}
    for entry in entries:
        if "chain" in entry and entry["chain"]["family"] in _FAMILIES:
            of_table = chains.setdefault((entry["chain"]["family"], entry["chain"]["table"]), {})
            of_table[entry["chain"]["name"]] = Chain(entry["chain"]["name"], _hook(entry["chain"]))
    for entry in entries:
        if "rule" in entry and (entry["rule"]["family"], entry["rule"]["table"]) in chains:
            raw = entry["rule"]
            of_table = chains[raw["family"], raw["table"]]
            named = {
                name: elements for (*where, name), elements in sets.items() if where == [raw["family"], raw["table"]]
            }
            of_table[raw["chain"]].rules += _Reader(named).rules(raw)
    return [
        Table(
            f"nftables table {family} {name}",
            f"nft insert rule {family} {name} {{chain}}",
            "nft",
            frozenset(_FAMILIES[family]),
            of_table,
        )
        for (family, name), of_table in chains.items()
    ]


def _hook(raw: Mapping[str, Any]) -> Hook | None:
    if "hook" not in raw:
        return None
    devices = raw.get("dev", [])
    policy = End.DROPPED if raw.get("policy") == "drop" else End.ACCEPTED
    return Hook(raw["hook"], policy, frozenset([devices] if isinstance(devices, str) else devices))


class _Reader:
    """Reads rules of a table with these named sets."""

    def __init__(self, sets: Mapping[str, list[Any]]) -> None:
        self._sets = sets

    def rules(self, raw: Mapping[str, Any]) -> list[Rule]:
        """One rule; several where a verdict map stands for several."""
        matches: list[Match] = []
        for statement in raw["expr"]:
            (kind, content), *_ = statement.items()
            if kind in _VERDICTS or kind in ("jump", "goto", "queue", "vmap"):
                return self._ending(raw, matches, kind, content)
            matches += self._matches(kind, content)
        return [Rule(_text(raw), tuple(matches))]

    def _ending(self, raw: Mapping[str, Any], matches: list[Match], kind: str, content: Any) -> list[Rule]:
        if kind != "vmap":
            return [Rule(_text(raw), tuple(matches), _effects(kind, content))]
        data = content["data"]
        entries = data["set"] if isinstance(data, dict) else None
        if entries is None:  # a named map: what is in it may change
            return [Rule(_text(raw), (*matches, UNFORESEEABLE), (End.ACCEPTED, End.DROPPED))]
        rules = []
        for value, verdict in entries:
            (verdict_kind, verdict_content), *_ = verdict.items()
            asked = self._comparison(content["key"], value)
            rules.append(Rule(_text(raw), (*matches, *asked), _effects(verdict_kind, verdict_content)))
        return rules

    def _matches(self, kind: str, content: Any) -> list[Match]:
        match kind:
            case "match":
                if content["op"] not in ("==", "!=", "in"):
                    return [UNFORESEEABLE]
                *others, asked = self._comparison(content["left"], content["right"])
                return [*others, replace(asked, negated=content["op"] == "!=")]
            case "limit" | "connlimit" | "ct count" | "quota" | "socket" | "osf" | "fib":
                return [UNFORESEEABLE]
            case "xt":
                harmless = content is None or content.get("type") != "match" or content.get("name") == "comment"
                return [] if harmless else [UNFORESEEABLE]
            case _:
                return []  # counter, log, mangle, set, …: nothing that a packet has to fulfil

    def _comparison(self, left: Any, right: Any) -> list[Match]:
        """What a packet must be, so that `left` is `right`; the last is the comparison itself."""
        if not isinstance(left, dict):
            return [UNFORESEEABLE]
        (kind, content), *_ = left.items()
        match kind:
            case "meta" if content["key"] in _META:
                return [Match(_META[content["key"]], self._holds(right))]
            case "ct" if content["key"] == "state":
                return [Match(Field.STATE, self._holds(right))]
            case "payload" if "field" in content:
                return self._payload(content["protocol"], content["field"], right)
            case "ipsec":
                return [Match(Field.IPSEC, lambda value: None if value else False)]
        return [UNFORESEEABLE]

    def _payload(self, protocol: str, field: str, right: Any) -> list[Match]:
        """A field of a header is asked of packets that have the header only."""
        holds = self._holds(right)
        if protocol in ("ip", "ip6"):
            of_family = Match(Field.FAMILY, lambda value: value == (4 if protocol == "ip" else 6))
            known = _ADDRESSES.get(field) or _NEXT.get(field)
            return [of_family, Match(known, holds) if known is not None else UNFORESEEABLE]
        if protocol in ("th", "udp"):
            known = _PORTS.get(field)
            of_protocol = [Match(Field.PROTOCOL, lambda value: value == UDP)] if protocol == "udp" else []
            return [*of_protocol, Match(known, holds) if known is not None else UNFORESEEABLE]
        number = _protocol(protocol)
        return [Match(Field.PROTOCOL, lambda value: None if number is None else value == number), UNFORESEEABLE]

    def _holds(self, wanted: Any) -> Holds:
        elements = self._elements(wanted)

        def holds(value: object) -> bool | None:
            answers = [None] if elements is None else [_is(value, element) for element in elements]
            return True if True in answers else None if None in answers else False

        return holds

    def _elements(self, wanted: Any) -> list[Any] | None:
        """The values asked for, one of which it must be; None: they are not known."""
        if isinstance(wanted, str) and wanted.startswith("@"):
            return self._sets.get(wanted[1:])
        if isinstance(wanted, list):
            return wanted
        if isinstance(wanted, dict) and "set" in wanted:
            return list(wanted["set"]) if isinstance(wanted["set"], list) else [wanted["set"]]
        return [wanted]


def _effects(kind: str, content: Any) -> tuple[Effect, ...]:
    if kind in ("jump", "goto"):
        return (Jump(content["target"], back=kind == "jump"),)
    if kind == "queue":  # a program decides
        return End.ACCEPTED, End.DROPPED
    return (_VERDICTS[kind],)


def _is(value: object, element: Any) -> bool | None:
    """Whether a packet's value is an element of what a rule asks for; None if that can't be told."""
    if isinstance(element, dict):
        kind, content = next(iter(element.items()))
        match kind:
            case "elem":
                return _is(value, content["val"])
            case "prefix":
                return _is_in(value, content["addr"], content["len"])
            case "range":
                return _is_between(value, *content)
        return None
    if isinstance(element, bool | int):
        return value == element
    if not isinstance(element, str) or element.startswith("@"):
        return None
    if isinstance(value, str):
        return fnmatchcase(value, element)
    if isinstance(value, int):
        number = {"ipv4": 4, "ipv6": 6}.get(element) if value in (4, 6) else None
        known = _protocol(element) if number is None else number
        return None if known is None else value in (known, number, _protocol(element))
    try:
        return value == ip_address(element)
    except ValueError:
        return None


def _is_in(value: object, address: str, length: int) -> bool | None:
    try:
        return value in ip_network(f"{address}/{length}", strict=False)
    except (TypeError, ValueError, AttributeError):
        return None


def _is_between(value: object, first: Any, last: Any) -> bool | None:
    try:
        if isinstance(value, int):
            return int(first) <= value <= int(last)
        low, high, of = int(ip_address(first)), int(ip_address(last)), ip_address(str(value))
        return of.version == ip_address(first).version and low <= int(of) <= high
    except (TypeError, ValueError):
        return None


def _protocol(name: str) -> int | None:
    """The number of an IP protocol, from the file that nft has taken the name from."""
    if name.isdecimal():
        return int(name)
    try:
        return socket.getprotobyname(name)
    except OSError:
        return None


def _text(raw: Mapping[str, Any]) -> str:
    return f"{raw['chain']} handle {raw['handle']}"

"""What `iptables-save` and `ip6tables-save` print. Source: iptables-save(8), iptables-extensions(8)."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_network
from typing import Final

from swanroam.doctor.firewall.packets import Field
from swanroam.doctor.firewall.rules import UNFORESEEABLE, Chain, Effect, End, Holds, Hook, Jump, Match, Rule, Table

_TARGETS: Final = {
    "ACCEPT": (End.ACCEPTED,),
    "DROP": (End.DROPPED,),
    "REJECT": (End.DROPPED,),
    "RETURN": (End.RETURNED,),
    "QUEUE": (End.ACCEPTED, End.DROPPED),
    "NFQUEUE": (End.ACCEPTED, End.DROPPED),
}
"""What they do with a packet; all others that are no chains let it go on."""
_HOOKS: Final = {"PREROUTING": "prerouting", "INPUT": "input", "OUTPUT": "output", "POSTROUTING": "postrouting"}


def read_iptables(text: str, program: str, version: int) -> list[Table]:
    """The tables. `program`: what changes them, `iptables`, `ip6tables-legacy`. `version`: 4 or 6.

    Raises ValueError for what is no such text.
    """
    tables: list[Table] = []
    chains: dict[str, Chain] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            name, chains = line[1:].strip(), {}
            opening = f"{program} -t {name} -I {{chain}}"
            label = f"{program}, table {name}"
            tables.append(Table(label, opening, "iptables", frozenset({version}), chains))
        elif line.startswith(":"):
            chain, policy, *_ = line[1:].split()
            hook = _HOOKS.get(chain)
            end = End.DROPPED if policy == "DROP" else End.ACCEPTED
            chains[chain] = Chain(chain, None if hook is None or policy == "-" else Hook(hook, end))
        elif line.startswith("-A "):
            words = shlex.split(line)
            if words[1] not in chains:
                raise ValueError(f"{program}-save printed a rule for no chain: {line}")
            chains[words[1]].rules.append(_rule(line, words[2:]))
    return tables


def _rule(text: str, words: Sequence[str]) -> Rule:
    matches: list[Match] = []
    effects: tuple[Effect, ...] = (End.GOES_ON,)
    negated = False
    rest = list(words)
    while rest:
        option = rest.pop(0)
        if option == "!":
            negated = True
            continue
        if option in ("-j", "--jump", "-g", "--goto"):  # what comes then is the target's
            target = rest.pop(0)
            effects = _TARGETS.get(target, (Jump(target, back=option in ("-j", "--jump")),))
            break
        values = [rest.pop(0)] if option == "--comment" else []
        while rest and not rest[0].startswith("-") and rest[0] != "!":
            values.append(rest.pop(0))
        if option not in ("-m", "--match", "--comment"):
            matches.append(_match(option, values[0] if values else "", negated))
        negated = False
    return Rule(text, tuple(matches), effects)


def _match(option: str, value: str, negated: bool) -> Match:
    match option:
        case "-p" | "--protocol":
            return Match(Field.PROTOCOL, _is_protocol(value), negated)
        case "-s" | "--source":
            return Match(Field.SOURCE, _is_in(value), negated)
        case "-d" | "--destination":
            return Match(Field.DESTINATION, _is_in(value), negated)
        case "-i" | "--in-interface":
            return Match(Field.IN_INTERFACE, _is_interface(value), negated)
        case "-o" | "--out-interface":
            return Match(Field.OUT_INTERFACE, _is_interface(value), negated)
        case "--sport" | "--sports" | "--source-port":
            return Match(Field.SOURCE_PORT, _is_port(value), negated)
        case "--dport" | "--dports" | "--destination-port":
            return Match(Field.DESTINATION_PORT, _is_port(value), negated)
        case "--ctstate" | "--state":
            states = {state.lower() for state in value.split(",")}
            return Match(Field.STATE, lambda state: state in states, negated)
        case "--pol":
            return Match(Field.IPSEC, lambda ipsec: ipsec is (value == "ipsec"), negated)
        case "--dir":
            return Match(Field.FAMILY, lambda _: True)  # of a policy; which one, the next words say
    return UNFORESEEABLE


def _is_protocol(name: str) -> Holds:
    try:
        number = int(name) if name.isdecimal() else socket.getprotobyname(name)
    except OSError:
        return lambda _: None
    return lambda value: value == number


def _is_in(text: str) -> Holds:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return lambda _: None
    return lambda value: value in network


def _is_interface(name: str) -> Holds:
    pattern = name[:-1] + "*" if name.endswith("+") else name
    return lambda value: fnmatchcase(str(value), pattern)


def _is_port(text: str) -> Holds:
    ranges = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        if not (first or "0").isdecimal() or not (last or "0").isdecimal():
            return lambda _: None
        low = int(first or 0)
        ranges.append((low, int(last or 65535) if colon else low))
    return lambda value: any(low <= value <= high for low, high in ranges)  # type: ignore[operator]  # a number

"""Chains of rules, whoever's syntax they came in, and what becomes of a packet in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from swanroam.doctor.firewall.packets import Field, Packet, Unknown


class Answer(Enum):
    """Does a rule apply to a packet?"""

    YES = auto()
    NO = auto()
    PERHAPS = auto()


class End(Enum):
    """How a packet leaves a chain."""

    ACCEPTED = auto()
    DROPPED = auto()
    RETURNED = auto()
    """To the chain that it came from; at the base, to the policy."""
    GOES_ON = auto()
    """To the next rule."""


Holds = Callable[[object], bool | None]
"""Whether a value is what a rule asks for; None if that can't be told."""


@dataclass(frozen=True, slots=True)
class Match:
    """One question of a rule."""

    field: Field
    holds: Holds
    negated: bool = False

    def answer(self, packet: Packet) -> Answer:
        value = packet.value(self.field)
        if value is Unknown.ABSENT:
            return Answer.NO
        held = None if value is Unknown.UNKNOWN else self.holds(value)
        if held is None:
            return Answer.PERHAPS
        return Answer.YES if held is not self.negated else Answer.NO


UNFORESEEABLE: Final = Match(Field.OTHER, lambda _: None)
"""Something that cannot be foretold."""


@dataclass(frozen=True, slots=True)
class Jump:
    """To another chain; after `goto` (`back` false) it does not come back to the next rule."""

    chain: str
    back: bool = True


Effect = End | Jump


@dataclass(frozen=True, slots=True)
class Rule:
    """Applies when all matches do. More than one effect: one of them, which cannot be foretold."""

    text: str
    matches: tuple[Match, ...]
    effects: tuple[Effect, ...] = (End.GOES_ON,)

    def answer(self, packet: Packet) -> Answer:
        answers = {match.answer(packet) for match in self.matches}
        if Answer.NO in answers:
            return Answer.NO
        return Answer.PERHAPS if Answer.PERHAPS in answers else Answer.YES


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain stands. `devices`: those that it is for; empty: all."""

    name: str
    policy: End
    devices: frozenset[str] = frozenset()


INCOMING: Final = frozenset({"ingress", "prerouting", "input"})
OUTGOING: Final = frozenset({"output", "postrouting", "egress"})


@dataclass(slots=True)
class Chain:
    """`hook` is None for one that others jump to."""

    name: str
    hook: Hook | None = None
    rules: list[Rule] = field(default_factory=list)

    def concerns(self, packet: Packet) -> bool:
        if self.hook is None or self.hook.name not in (INCOMING if packet.incoming else OUTGOING):
            return False
        return not self.hook.devices or packet.interface in self.hook.devices


@dataclass(frozen=True, slots=True)
class Table:
    """Chains that can jump to each other."""

    label: str
    """For people: `nftables table inet filter`."""
    opening: str
    """The command that puts a rule at the beginning of a chain; `{chain}` stands for its name."""
    syntax: str
    """`nft` or `iptables`: how such a rule is written."""
    families: frozenset[int]
    chains: Mapping[str, Chain]


@dataclass(frozen=True, slots=True)
class Loss:
    """A packet does not get through, surely or perhaps."""

    table: Table
    chain: str
    by: str
    """What drops it: a rule, or the chain's policy."""
    certain: bool


def losses(tables: Collection[Table], packet: Packet) -> list[Loss]:
    """Where it is lost; empty when it passes everywhere."""
    found = []
    for table in tables:
        if packet.source.version not in table.families:
            continue
        for chain in table.chains.values():
            if chain.concerns(packet) and (loss := _loss(table, chain, packet)) is not None:
                found.append(loss)
    return found


def _loss(table: Table, chain: Chain, packet: Packet) -> Loss | None:
    assert chain.hook is not None
    drops: list[str] = []
    ends = _walk(table, chain, packet, drops, (chain.name,))
    if End.RETURNED in ends:
        ends = ends - {End.RETURNED} | {chain.hook.policy}
        if chain.hook.policy is End.DROPPED:
            drops.append("its policy")
    if End.DROPPED not in ends:
        return None
    return Loss(table, chain.name, drops[0], certain=ends == {End.DROPPED})


def _walk(table: Table, chain: Chain, packet: Packet, drops: list[str], way: tuple[str, ...]) -> set[End]:
    """All the ways in which it may leave the chain. `drops` gets what may drop it, `way` is how it came here."""
    ends: set[End] = set()
    for rule in chain.rules:
        answer = rule.answer(packet)
        if answer is Answer.NO:
            continue
        possible = {end for effect in rule.effects for end in _ends(table, rule, effect, packet, drops, way)}
        ends |= possible - {End.GOES_ON}
        if answer is Answer.YES and End.GOES_ON not in possible:
            return ends
    return ends | {End.RETURNED}


def _ends(table: Table, rule: Rule, effect: Effect, packet: Packet, drops: list[str], way: tuple[str, ...]) -> set[End]:
    if isinstance(effect, End):
        if effect is End.DROPPED:
            drops.append(f"the rule `{rule.text}`")
        return {effect}
    target = table.chains.get(effect.chain)
    if target is None or effect.chain in way:  # the kernel has no loops
        return {End.GOES_ON}
    ends = _walk(table, target, packet, drops, (*way, effect.chain))
    if effect.back and End.RETURNED in ends:
        ends = ends - {End.RETURNED} | {End.GOES_ON}
    return ends

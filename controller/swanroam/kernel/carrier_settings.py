"""What is asked of the carrier: which pairs it carries, and the numbers that it may use."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from swanroam.kernel.rtnetlink import IPAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """Packets `local` -> `remote` travel in IP-in-IP `outer_local` -> `outer_remote`.

    `control_only`: only those with the control mark; others go where the routing tables send them.
    """

    local: IPAddress
    remote: IPAddress
    outer_local: IPAddress
    outer_remote: IPAddress
    control_only: bool = False

    def __post_init__(self) -> None:
        if len({a.version for a in (self.local, self.remote, self.outer_local, self.outer_remote)}) != 1:
            raise ValueError(
                f"{self}: inner and outer addresses must be of one family; a host that changes between IPv4 and IPv6 "
                "needs the address of the other family from the beginning"
            )

    def __str__(self) -> str:
        which = " (control only)" if self.control_only else ""
        return f"carrier {self.local} -> {self.remote} in {self.outer_local} -> {self.outer_remote}{which}"


@dataclass(frozen=True, slots=True)
class CarrierSettings:
    """Numbers that other software on the host must not use.

    Tables from `table` to `table` + 2, rule priorities from `rule_priority` to `rule_priority` + 3 (before charon's
    220); `control_mark` is the skb mark of control datagrams and of their CHILD_SA's ESP packets.
    """

    table: int = 5353
    rule_priority: int = 150
    control_mark: int = 0x5353

    @property
    def admitted_mark(self) -> int:
        """skb mark of packets that came out of the carrier and were admitted."""
        return (self.control_mark + 1) & 0xFFFFFFFF or 1

    @property
    def clear_mark(self) -> int:
        """skb mark of packets that came out of the carrier in clear, because the carrier itself was inside ESP."""
        return (self.control_mark + 2) & 0xFFFFFFFF or 2

    @property
    def control_table(self) -> int:
        return self.table + 1

    @property
    def narrow_table(self) -> int:
        """Has what is local for the carrier alone."""
        return self.table + 2

    @property
    def control_priority(self) -> int:
        """Asked before `data_priority`: a control datagram must not take the data's way."""
        return self.rule_priority

    @property
    def data_priority(self) -> int:
        return self.rule_priority + 1

    @property
    def unsourced_priority(self) -> int:
        """For packets that have no source address yet."""
        return self.rule_priority + 2

    @property
    def arrival_priority(self) -> int:
        """For what comes out of the carrier to narrowed addresses."""
        return self.rule_priority + 3


def check(carriers: Collection[Carrier]) -> None:
    """Raise ValueError when carriers contradict each other.

    That is: one remote address with different outer addresses (the route is per remote address; control only ones
    have a table of their own), or a carrier inside a carrier, which could be a loop (RFC 6275 §15.1).
    """
    outer: dict[tuple[IPAddress, bool], Carrier] = {}
    for carrier in carriers:
        other = outer.setdefault((carrier.remote, carrier.control_only), carrier)
        if (other.outer_local, other.outer_remote) != (carrier.outer_local, carrier.outer_remote):
            raise ValueError(f"{carrier} contradicts {other}: packets to one remote address need one outer pair")
    data = {(c.local, c.remote) for c in carriers if not c.control_only}
    control = {(c.local, c.remote) for c in carriers if c.control_only}
    for carrier in carriers:
        # A marked packet takes the control carrier where there is one, else the data carrier.
        forbidden = data | control if carrier.control_only or (carrier.local, carrier.remote) not in control else data
        if (carrier.outer_local, carrier.outer_remote) in forbidden:
            raise ValueError(f"{carrier}: its outer packets would be carried themselves")

"""What the kernel of this host should look like for one peer, computed from the two bindings.

Own addresses x peer's addresses are the *pairs* between which protected traffic can run. Of all pairs only
(own current, peer's current) is native; packets of every other pair travel in the *carrier*, IP-in-IP from own current
to the peer's current address. All pairs are guarded: what no charon policy protects does not leave.

Until a peer has proven its new address, data goes where it went before, and only control datagrams are carried
to the unproven address (RFC 9000 §9.3: no more than a probe before validation). What sockets have for that very
address, because the peer was there before, is withheld.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import product

from swanroam.protocol.binding import Binding
from swanroam.protocol.messages import IPAddress


@dataclass(frozen=True, slots=True)
class Pair:
    """Packets from `local` to `remote`, and back."""

    local: IPAddress
    remote: IPAddress

    def __lt__(self, other: Pair) -> bool:
        """Any order will do, but there must be one: addresses of two families cannot be compared."""
        return self._rank < other._rank

    @property
    def _rank(self) -> tuple[int, int, int]:
        return self.local.version, int(self.local), int(self.remote)

    def __str__(self) -> str:
        return f"{self.local}-{self.remote}"


def pairs_between(own: Iterable[IPAddress], peer: Iterable[IPAddress]) -> list[Pair]:
    """Every own address with every one of the peer's to which packets can go from there: of one family. In order."""
    return [Pair(local, remote) for local, remote in product(own, peer) if local.version == remote.version]


@dataclass(frozen=True, slots=True, order=True)
class Carried:
    """A pair whose packets leave in IP-in-IP between the addresses of `outer`."""

    inner: Pair
    outer: Pair
    control_only: bool
    """Only control datagrams: the outer remote address is not proven yet."""


class Crossing(enum.Enum):
    """Method migrate: how far this host is in moving its filters to the current pair. See `migration`."""

    NONE = "none"
    """Old filters: ESP inside bare IP-in-IP, both ways."""
    ACCEPTING = "accepting"
    """This host's filters have moved and the peer's have not: it still takes what comes by the old ones, and what it
    would send from an old address is stopped by the guards, because the peer could not read it yet."""
    DONE = "done"
    """New filters, both ways."""


@dataclass(frozen=True, slots=True)
class HostState:
    """Everything that one peer needs of this host. The daemon applies the union over all peers."""

    held: frozenset[IPAddress] = frozenset()
    """Addresses that stay local, whatever becomes of their interface."""
    reachable: frozenset[IPAddress] = frozenset()
    """Those of them that are this host's for every packet. The others are so for what comes out of the carrier; who
    else sends something there means the host that has the address now."""
    carried: frozenset[Carried] = frozenset()
    admitted: frozenset[Pair] = frozenset()
    """Pairs whose IKE and ESP packets may come out of the carrier."""
    guarded: frozenset[Pair] = frozenset()
    """Pairs whose unprotected packets are dropped in both directions."""
    shut: frozenset[IPAddress] = frozenset()
    """Addresses of the peer to which nothing unprotected leaves, whatever address of ours it has: a socket without one
    takes a new address as soon as the routing prefers it, and this controller hears of it a moment later."""
    withheld: frozenset[Pair] = frozenset()
    """Those whose protected packets are not sent either: they would go to an address that is not proven."""
    bypassed: frozenset[Pair] = frozenset()
    """Outer pairs between which IP-in-IP may pass although a policy would demand ESP for it: its content is ESP."""
    bypassed_in: frozenset[Pair] = frozenset()
    """The same for what comes in alone."""
    cleared: frozenset[Pair] = frozenset()
    """Method migrate: pairs whose packets are clear inside the carrier, because the carrier itself is inside ESP."""
    accepted: frozenset[Pair] = frozenset()
    """Method migrate: pairs whose ESP is still accepted by the SAs kept for what is under way."""

    def __or__(self, other: HostState) -> HostState:
        return HostState(
            self.held | other.held,
            self.reachable | other.reachable,
            self.carried | other.carried,
            self.admitted | other.admitted,
            self.guarded | other.guarded,
            self.shut | other.shut,
            self.withheld | other.withheld,
            self.bypassed | other.bypassed,
            self.bypassed_in | other.bypassed_in,
            self.cleared | other.cleared,
            self.accepted | other.accepted,
        )


def host_state(
    own: Binding,
    peer: Binding,
    *,
    peer_proven: IPAddress | None,
    holds: bool,
    vacated: Collection[IPAddress] = (),
    lingering: Iterable[Pair] = (),
    associated: Iterable[Pair] = (),
    crossing: Crossing = Crossing.NONE,
) -> HostState:
    """The wanted state for one managed peer.

    `peer_proven` is the last address of the peer that was proven, None when that one was released; `holds` tells
    whether we may move and so keep our addresses; `vacated` are those of ours that nothing but sockets which stay there
    uses, and that another host may have; `lingering` are pairs of released addresses that still have sockets and stay
    guarded; `associated` are pairs that charon has an IKE_SA for: they are guarded as well, should their CHILD_SAs go,
    and the peer may carry them already, from an address that it could not announce yet. IP-in-IP from a lingering or
    deprecated address is let in, because it may be the peer that has come back there; what is clear inside comes from
    its current address only. A pair whose remote address is announced is native, and withheld until that is proven,
    also when it was proven once, long ago; with no proven address all pairs are.
    """
    pairs = frozenset(pairs_between(own.addresses, peer.addresses))
    announced = Pair(own.current, peer.current)
    carried: set[Carried] = set()
    if peer_proven is not None:
        reachable = Pair(own.current, peer_proven)
        carried |= {
            Carried(pair, reachable, control_only=False) for pair in pairs if pair not in (reachable, announced)
        }
    withheld = frozenset[Pair]()
    if peer_proven != peer.current:
        withheld = pairs if peer_proven is None else frozenset({announced})
        carried |= {Carried(pair, announced, control_only=True) for pair in pairs if pair != announced}
    associated = frozenset(associated)
    busy = bool(own.deprecated or peer.deprecated or associated - {announced})
    crossed = crossing if peer_proven == peer.current else Crossing.NONE
    inner = frozenset(entry.inner for entry in carried) if crossed is not Crossing.NONE else frozenset()
    lingering = frozenset(lingering)
    held = frozenset(own.addresses) if holds else frozenset()
    left = pairs - {announced} if crossed is Crossing.DONE else frozenset()
    return HostState(
        held=held,
        reachable=held - frozenset(vacated),
        carried=frozenset(carried),
        admitted=pairs | associated,
        guarded=pairs | lingering | associated,
        shut=frozenset(peer.addresses) if holds else frozenset(),
        withheld=withheld,
        bypassed=pairs if busy and crossed is not Crossing.DONE else frozenset(),
        bypassed_in=lingering | left,
        cleared=inner if crossed is Crossing.DONE else frozenset(),
        accepted=inner,
    )

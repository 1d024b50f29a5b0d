"""Finding a peer that has moved at the same moment as this host, so that neither can tell the other where it is.

Theory of operation
===================

Each host announces its new address to one that the other has just left. Everything that could tell them is lost with
the old addresses; what is left is where the peer may be found by name. The host asks for these addresses anew in each
round, for a name may have been changed meanwhile, and has IKE tried with one after the other:

    our change is unanswered for SEEK_AFTER ... the peer's fallback addresses are resolved
    they are known ............................ filters for (own current, first of them) are established, then the next
    none of them was the peer ................. the next round, after a pause that grows
    IKE has found the peer there .............. its control CHILD_SA carries the changes of both hosts, as always
    and the peer says so itself ............... filters are established once more: what they supersede ends
    but the peer says that it is elsewhere .... the filters there are released

A name is not believed in anything. What answers at an address has to prove the peer's identity to IKE, or it gets
nothing; the peer's binding changes only by its own authenticated message, and data goes to its new address only when
that is proven (see `correspondent`). Until IKE has found the peer there, all that would leave for the address
is stopped, from the moment before IKE is tried. That is all that a forged name can bring about, for as long as one
attempt lasts, and not for addresses of this host or of other peers, nor for inner addresses.

Only a host whose present address the peer may not know seeks. If it knows that one it can tell us where it is, and its
silence is not for us to mend. Both hosts may seek at once; two IKE_SAs for one pair are
equally good, and whoever establishes filters ends the second (`ike.renegotiate`).

The peer's current address is not tried: filters are missing there, and so are established anyway, unless it is not
proven; then the proven one is current again soon. At a deprecated one it may be again, so packets of that one pair do
not go into the carrier while it is looked for there: the carrier leads to where the peer is not, our answers to its IKE
among them. Sockets use this pair only if we are back as well, and what they send is withheld: it may be an address that
the peer has left before it proved it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from swanroam.protocol.binding import Binding
from swanroam.protocol.events import Action, EstablishFilters, Fact, ReleaseFilters, Report, ResolveFallbacks
from swanroam.protocol.host_state import HostState, Pair, pairs_between
from swanroam.protocol.messages import IPAddress

SEEK_AFTER = 5.0
"""Seconds without an answer to a change of address, and up to half of it more so that two hosts do not act at once."""
SEEK_PAUSE = (2.0, 30.0)
"""Seconds between two rounds: first, and at most."""
MAX_CANDIDATES = 8
"""Addresses that are tried in one round."""


class Seeker:
    """Looks for one peer while that is lost."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self.trying: Pair | None = None
        """IKE is being tried for this pair."""
        self.found: Pair | None = None
        """IKE has found the peer there; it has not yet said so itself."""
        self._jitter = jitter
        self.sought_at: tuple[IPAddress, ...] | None = None
        """Where it was looked for in this round, or the last one; None while it is not lost."""
        self._candidates: list[IPAddress] = []
        self._resolving = False
        self._passed_over: frozenset[IPAddress] = frozenset()
        self._lost_since: float | None = None
        self._due = 0.0
        self._pause = SEEK_PAUSE[0]

    def advance(self, own: Binding, peer: Binding, lost_since: float | None, now: float) -> list[Action]:
        """The next thing to do. `lost_since`: when the first message was sent that might have told the peer where we
        are; None when it knows."""
        if lost_since != self._lost_since:
            self._restart(lost_since)
        if lost_since is None:
            return []
        if self.trying is not None and self.trying.local != own.current:
            self.trying = None  # we have moved on
        if self._resolving or self.trying is not None or now < self._due:
            return []
        self.found = None
        if not self._candidates:
            self._resolving = True
            self._passed_over = frozenset((*own.addresses, peer.current))
            return [ResolveFallbacks(own.current.version)]
        self.trying = Pair(own.current, self._candidates.pop(0))
        old = own.deprecated[-1] if own.deprecated else own.current
        return [EstablishFilters(self.trying, Pair(old, peer.current))]

    def resolved(self, addresses: Collection[IPAddress], now: float) -> list[Action]:
        """Where the peer may be; not where nobody can be, nor where somebody else is."""
        if not self._resolving:
            return []
        self._resolving = False
        possible = dict.fromkeys(address for address in addresses if address not in self._passed_over)
        before, self.sought_at = self.sought_at, tuple(possible)[:MAX_CANDIDATES]
        self._candidates = list(self.sought_at)
        if not self._candidates:
            self._postpone(now)
        if before == self.sought_at:
            return []
        places = ", ".join(map(str, self.sought_at))
        return [Report(Fact.PEER_SOUGHT, f"at {places}" if places else "no other address of it is known")]

    def established(self, pair: Pair, now: float) -> list[Action] | None:
        """The attempt at a pair has found the peer. None when there is none."""
        if pair != self.trying:
            return None
        self.trying, self.found = None, pair
        self._candidates.clear()
        self._postpone(now)
        return [Report(Fact.PEER_FOUND, str(pair))]

    def failed(self, pair: Pair, reason: str, now: float) -> list[Action] | None:
        """The attempt at a pair has not found the peer. None when there is none."""
        if pair != self.trying:
            return None
        self.trying = None
        if not self._candidates:
            self._postpone(now)
        return [Report(Fact.PEER_NOT_FOUND, f"{pair}: {reason}")]

    def settled(self, own: Binding, peer: Binding) -> list[Action]:
        """The two hosts know each other's current addresses again, and filters stand there."""
        found, self.found = self.found, None
        if found is None:
            return []
        if found == Pair(own.current, peer.current):
            return [EstablishFilters(found, found)]
        return [] if found.remote in peer.addresses else [ReleaseFilters(found.remote)]

    def applied_to(self, state: HostState, own: Binding) -> HostState:
        """What this host's kernel should have besides, and what it should not have, for IKE to get there."""
        trying, found = (
            frozenset(pairs_between(own.addresses, [pair.remote]) if pair is not None else ())
            for pair in (self.trying, self.found)
        )
        native = {pair for pair in (self.trying, self.found) if pair is not None} | {
            Pair(own.current, place) for place in self.sought_at or ()
        }
        if not native:
            return state
        dropped = frozenset(entry for entry in state.carried if entry.inner in native)
        withheld = (trying - found - state.guarded).union(entry.inner for entry in dropped)
        return replace(
            state,
            guarded=state.guarded | trying | found,
            withheld=state.withheld | withheld,
            carried=state.carried - dropped,
        )

    def deadlines(self) -> list[float]:
        """Times at which `advance` may have something to do."""
        return [] if self._lost_since is None else [self._due]

    def _postpone(self, now: float) -> None:
        self._due = now + self._pause
        self._pause = min(self._pause * 2, SEEK_PAUSE[1])

    def _restart(self, lost_since: float | None) -> None:
        """It is lost, or not any more. An attempt that is running goes on: the peer may answer because of it."""
        self._lost_since = lost_since
        self._due = (lost_since or 0.0) + SEEK_AFTER * (1 + self._jitter() / 2)
        self._candidates.clear()
        self._resolving = False
        self.sought_at = None
        self._pause = SEEK_PAUSE[0]

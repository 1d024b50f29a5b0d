"""Whether to stay on the current address, to move, or to wait: the decision alone, without input or output.

Time is a parameter, in seconds of a clock that never goes back. `AddressHistory` is one for the host and remembers
when addresses came and went; `AddressChooser` is one for each destination. The rules, in the order in which they apply:

1. A move that was asked for (`pin`) wins while its address is usable, and is forgotten once that address has gone.
2. While the current address works, it stays unless something better turns up: where the routing decides, that is
   another source than the one the routing picked when the current address was taken up; where a list of interfaces
   decides, an address on an interface further up. A deprecated address gives way to any preferred one that serves.
3. An address that has disappeared from a link that is up may come back: DHCP clients remove and re-add it when they
   renew a lease. It is waited for, but not when a new address that came with the disappearance is ready.
4. Without a link there is nothing to wait for.

IPv6 temporary addresses are taken only where the routing picks them itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from swanroam.kernel.addresses import HostAddresses, IPAddress, LocalAddress, RouteChoice, place_of

NEW_BEFORE_REMOVAL = 1.0
"""An address that came at most this long before the current one went is its replacement (seconds)."""

DAD_WAIT = 3.0
"""Longest that duplicate address detection takes: a random delay of up to 1 s and one probe of 1 s
(RFC 4862 §5.1 and §5.4.2), and some slack (seconds)."""

HISTORY_LIMIT = 600.0
"""How long an address that has gone is remembered (seconds)."""


class MoveReason(Enum):
    """Why the current address is left."""

    PLANNED = "planned"
    """Somebody asked for it."""
    PREFERRED = "preferred"
    """The current address works, another is preferred now."""
    DEPRECATED = "deprecated"
    """The current address is about to be withdrawn."""
    GONE = "gone"
    """The host no longer has the current address."""
    LINK_DOWN = "link_down"
    """The host has it on a link that passes no packets."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The current address stays."""


@dataclass(frozen=True, slots=True)
class MoveTo:
    address: LocalAddress
    reason: MoveReason


@dataclass(frozen=True, slots=True)
class Lost:
    """The current address cannot be used, and there is none to move to. Decide again when something changes."""

    reason: MoveReason


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """The current address may come back. Decide again at this time, or earlier when something changes."""

    time: float


Decision = Keep | MoveTo | Lost | WaitUntil


@dataclass(slots=True)
class _Record:
    appeared: float
    """When it last came; minus infinity when it was there from the start."""
    index: int
    """The interface it is or was on."""
    gone: float | None = None
    """When it went; None while it is there."""


class AddressHistory:
    """When each of the host's addresses came and went. Feed it every snapshot."""

    def __init__(self) -> None:
        self._records: dict[IPAddress, _Record] = {}
        self._started = False

    def observe(self, host: HostAddresses, now: float) -> None:
        """Note what has changed since the last snapshot."""
        present = {local.address for local in host.addresses}
        for address in present:
            local = host.find(address)
            assert local is not None
            record = self._records.get(address)
            if record is None or record.gone is not None:
                appeared = now if self._started else float("-inf")
                self._records[address] = _Record(appeared, local.index)
            else:
                record.index = local.index
        for address, record in list(self._records.items()):
            if address in present:
                continue
            if record.gone is None:
                record.gone = now
            elif now - record.gone > HISTORY_LIMIT:
                del self._records[address]
        self._started = True

    def appeared(self, address: IPAddress) -> float:
        """When the address last came; minus infinity when it was always there."""
        record = self._records.get(address)
        return record.appeared if record else float("-inf")

    def gone(self, address: IPAddress) -> float | None:
        """When the address went; None when it is there or never was."""
        record = self._records.get(address)
        return record.gone if record else None

    def last_index(self, address: IPAddress) -> int | None:
        """Index of the interface that the address is or was on."""
        record = self._records.get(address)
        return record.index if record else None


class AddressChooser:
    """Chooses this host's address towards one destination."""

    def __init__(self, prefer: tuple[str, ...] = (), readd_window: float = 1.0) -> None:
        """`prefer`: interface globs, best first; empty: as the routing picks. `readd_window`: seconds."""
        self._prefer = prefer
        self._readd_window = readd_window
        self._pinned: IPAddress | None = None
        self._current: IPAddress | None = None
        self._target: IPAddress | None = None
        self._baseline: IPAddress | None = None
        """What the routing picked when the current address was taken up."""

    def reconfigure(self, prefer: tuple[str, ...], readd_window: float) -> None:
        """Other settings; see above. What is pinned stays so."""
        self._prefer, self._readd_window = prefer, readd_window

    @property
    def pinned(self) -> IPAddress | None:
        return self._pinned

    def pin(self, address: IPAddress) -> None:
        """Move to this address as soon as it is usable, and stay until it disappears."""
        self._pinned = address

    def unpin(self) -> None:
        """Go by preference again, also when that means moving back."""
        self._pinned = None
        self._baseline = self._current

    def decide(
        self,
        host: HostAddresses,
        history: AddressHistory,
        routed: RouteChoice | None,
        current: IPAddress,
        now: float,
    ) -> Decision:
        """What to do, given the host as `history` has last observed it and the routing's choice for the destination.

        Asking again gives the same answer, until the caller has moved and passes another `current`.
        """
        if current != self._current:
            # After a move of ours the routing's pick was the target; anything else that it picks now is news.
            self._baseline = current if current == self._target else None
            self._current = current
        decision = self._decide(host, history, routed, current, now)
        if isinstance(decision, MoveTo):
            self._target = decision.address.address
        return decision

    def _decide(
        self,
        host: HostAddresses,
        history: AddressHistory,
        routed: RouteChoice | None,
        current: IPAddress,
        now: float,
    ) -> Decision:
        local = host.find(current)
        working = local is not None and local.usable and host.is_running(local.index)
        if (pinned := self._find_pinned(host, history, now)) is not None:
            if pinned.address != current and pinned.address.version == current.version:
                return MoveTo(pinned, MoveReason.PLANNED)
            if working:
                return Keep()
        best = self._best(host, routed, current)
        if local is None or local.dadfailed:
            return self._when_gone(host, history, best, current, now)
        if not host.is_running(local.index):
            return MoveTo(best, MoveReason.LINK_DOWN) if best else Lost(MoveReason.LINK_DOWN)
        if local.tentative:
            return self._when_tentative(history, best, current, now)
        if local.deprecated:
            best = best or self._beside(host, local)
            return MoveTo(best, MoveReason.DEPRECATED) if best else Keep()
        return self._when_working(host, routed, best, local)

    def _find_pinned(self, host: HostAddresses, history: AddressHistory, now: float) -> LocalAddress | None:
        """The pinned address when it can be used. Forgets the pin when it has gone for good."""
        if self._pinned is None:
            return None
        local = host.find(self._pinned)
        if local is None:
            gone = history.gone(self._pinned)
            if gone is None or now - gone >= self._readd_window:
                self._pinned = None
            return None
        return local if local.usable and host.is_running(local.index) else None

    def _candidates(self, host: HostAddresses, version: int) -> list[LocalAddress]:
        found = (host.find(address) for address in {local.address for local in host.addresses})
        return [
            local
            for local in found
            if local is not None
            and local.address.version == version
            and local.usable
            and not local.deprecated
            and host.is_running(local.index)
        ]

    def _best(self, host: HostAddresses, routed: RouteChoice | None, current: IPAddress) -> LocalAddress | None:
        """The preferred address, when it is another than the current one and can be used."""
        source = routed.source if routed else None
        candidates = self._candidates(host, current.version)
        if self._prefer:
            ranked = [local for local in candidates if not local.temporary or local.address in (source, current)]
            best = min(ranked, key=lambda local: self._rank(local, source, current), default=None)
        else:
            best = next((local for local in candidates if local.address == source), None)
        return None if best is None or best.address == current else best

    def _rank(self, local: LocalAddress, source: IPAddress | None, current: IPAddress) -> tuple[int, bool, bool, int]:
        return (
            place_of(local.interface, self._prefer),
            local.address != current,
            local.address != source,
            int(local.address),
        )

    def _beside(self, host: HostAddresses, local: LocalAddress) -> LocalAddress | None:
        """A preferred address on the interface of a deprecated one, which its routes therefore serve as well."""
        found = [
            other
            for other in self._candidates(host, local.address.version)
            if other.index == local.index and not other.temporary
        ]
        return min(found, key=lambda other: int(other.address), default=None)

    def _when_working(
        self, host: HostAddresses, routed: RouteChoice | None, best: LocalAddress | None, local: LocalAddress
    ) -> Decision:
        if self._prefer:
            return MoveTo(best, MoveReason.PREFERRED) if best else Keep()
        if self._baseline is None or (routed is not None and routed.source == local.address):
            self._baseline = routed.source if routed else None
        if best is None or best.address == self._baseline:
            return Keep()
        if best.temporary and not local.temporary and best.index == local.index:
            # The daily successor of a temporary address that was not wanted before either
            return Keep()
        return MoveTo(best, MoveReason.PREFERRED)

    def _when_tentative(
        self, history: AddressHistory, best: LocalAddress | None, current: IPAddress, now: float
    ) -> Decision:
        """The current address has come back and is being checked for duplicates."""
        appeared = history.appeared(current)
        if best and history.appeared(best.address) >= appeared - self._readd_window - NEW_BEFORE_REMOVAL:
            return MoveTo(best, MoveReason.GONE)
        deadline = appeared + DAD_WAIT
        if now < deadline:
            return WaitUntil(deadline)
        return MoveTo(best, MoveReason.GONE) if best else Lost(MoveReason.GONE)

    def _when_gone(
        self, host: HostAddresses, history: AddressHistory, best: LocalAddress | None, current: IPAddress, now: float
    ) -> Decision:
        gone = history.gone(current)
        index = history.last_index(current)
        may_return = gone is not None and index is not None and host.is_running(index)
        if gone is not None and may_return and now < gone + self._readd_window:
            replaced = best is not None and history.appeared(best.address) >= gone - NEW_BEFORE_REMOVAL
            if not replaced:
                return WaitUntil(gone + self._readd_window)
        return MoveTo(best, MoveReason.GONE) if best else Lost(MoveReason.GONE)

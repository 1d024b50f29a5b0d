"""How an old address of this host goes, once it is not needed any more.

    grace period over -> count its sockets -> none: release its filters -> filters gone: count again -> none: it may go

The second count is for the socket that came between the first and the end of the filters: as long as one uses the
address, the address stays in the binding, and so guarded. What finds sockets is counted again, at growing intervals;
after a configured limit they are ended.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from swanroam.protocol.events import Action, EndSockets, ReadUsage, ReleaseFilters
from swanroam.protocol.messages import IPAddress

USAGE_INTERVAL = (0.5, 5.0)
"""Seconds between two counts of the sockets on an address that is past its grace period: first, and at most."""
RELEASE_RETRY = 10.0
"""Seconds after which filters that were not reported gone are released again."""
READ_LATE = 1.0
"""Seconds in which charon's associations may still show filters that are gone."""


class _Filters(enum.Enum):
    STANDING = enum.auto()
    RELEASING = enum.auto()
    GONE = enum.auto()


@dataclass(slots=True)
class _Entry:
    due: float
    """When the grace period ends; afterwards when to count, or to release the filters again."""
    delay: float = USAGE_INTERVAL[0]
    ends: float | None = None
    """When sockets that still use it are ended."""
    ended: bool = False
    """That has been ordered once. It may have to be again, which not every kernel can do: ever less often."""
    counting: bool = False
    filters: _Filters = _Filters.STANDING


class Releases:
    """The deprecated addresses of this host on their way out."""

    def __init__(self, end_after: float | None) -> None:
        self._end_after = end_after
        self.waiting: dict[IPAddress, int] = {}
        """Addresses past their grace period, with the number of sockets that keep them."""
        self._entries: dict[IPAddress, _Entry] = {}
        self._terminating: dict[IPAddress, float] = {}

    def reconfigure(self, end_after: float | None) -> None:
        """Another limit, also for what waits already: then from now on."""
        if end_after != self._end_after:
            self._end_after = end_after
            for entry in self._entries.values():
                entry.ends = None

    @property
    def counting(self) -> bool:
        """Sockets are being counted: they must not be taken apart meanwhile."""
        return any(entry.counting for entry in self._entries.values())

    def terminating(self, address: IPAddress, now: float) -> bool:
        """Its filters are on their way out by our own order, so they are not to be counted on."""
        return now < self._terminating.get(address, now)

    def forget(self, address: IPAddress) -> None:
        """It is current again, or gone."""
        self._entries.pop(address, None)
        self.waiting.pop(address, None)

    def clear(self) -> None:
        self._entries.clear()
        self.waiting.clear()

    def advance(self, deprecated: Collection[IPAddress], now: float, grace: float) -> list[Action]:
        """What is due. To be called while the current address can do without the deprecated ones."""
        actions: list[Action] = []
        for address in deprecated:
            entry = self._entries.setdefault(address, _Entry(now + grace))
            if now < entry.due or entry.counting:
                continue
            if entry.filters is _Filters.RELEASING:
                actions.append(self._terminate(address, entry, now))
            else:
                entry.counting = True
                actions.append(ReadUsage(address))
        return actions

    def usage_read(self, address: IPAddress, sockets: int, now: float) -> list[Action] | None:
        """Takes a count that was asked for; None when nothing keeps the address any more."""
        entry = self._entries.get(address)
        if entry is None or not entry.counting:
            return []
        entry.counting = False
        if sockets:
            self.waiting[address] = sockets
            if entry.ends is None and self._end_after is not None:
                entry.ends = now + self._end_after
            actions: list[Action] = []
            if entry.ends is not None and now >= entry.ends:
                actions.append(EndSockets(address))
                if not entry.ended:
                    entry.ended, entry.delay = True, USAGE_INTERVAL[0]
            entry.due = now + entry.delay
            entry.delay = min(entry.delay * 2, USAGE_INTERVAL[1])
            return actions
        self.waiting.pop(address, None)
        if entry.filters is _Filters.GONE:
            return None
        return [self._terminate(address, entry, now)]

    def filters_released(self, address: IPAddress, now: float) -> None:
        self._terminating = {other: ends for other, ends in self._terminating.items() if now < ends}
        self._terminating[address] = now + READ_LATE
        entry = self._entries.get(address)
        if entry is not None and entry.filters is _Filters.RELEASING:
            entry.filters = _Filters.GONE
            entry.due = now

    def deadlines(self) -> list[float]:
        """Times at which `advance` may have something to do, or `terminating` changes."""
        return [*(entry.due for entry in self._entries.values()), *self._terminating.values()]

    def _terminate(self, address: IPAddress, entry: _Entry, now: float) -> Action:
        entry.filters = _Filters.RELEASING
        entry.due = self._terminating[address] = now + RELEASE_RETRY
        return ReleaseFilters(address)

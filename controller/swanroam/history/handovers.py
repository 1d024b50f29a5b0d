"""Past handovers, put together from the entries of the history.

An entry belongs to the handover that it names; what names none, and has to do with the same peer, belongs to the
handover in the middle of which it came. Everything else stands for itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from swanroam.history.store import Entry

STARTED, STEP, FINISHED = "handover_started", "handover_step_finished", "handover_finished"
DAEMON_STARTED, DAEMON_STOPPED = "daemon_started", "daemon_stopped"
ADDRESS_LOST, ADDRESS_BACK = "address_lost", "address_back"
ADDRESS_RELEASED, WAITS = "address_released", "release_waits_for_sockets"
REFUSED_BY_PEER, FORGOTTEN, SOCKETS_ENDED = "address_change_refused_by_peer", "peer_forgotten", "sockets_ended"
GIVEN_UP = "transfer_given_up"
RUNNING, CARRYING, CUT_SHORT, LOST = "running", "carrying", "cut_short", "forgotten"
"""Results of handovers of which the history does not have the end."""
_APART = frozenset({ADDRESS_LOST, ADDRESS_BACK, DAEMON_STARTED, DAEMON_STOPPED, FORGOTTEN})
"""What stands for itself, whatever goes on."""
SAME_CLOCK = 0.1
"""Seconds by which two ways of telling the time of day may differ: the clock was not set between them, only read."""
FLAPPING_WINDOW = 60.0
"""Seconds before a handover in which others make it one of many."""
FLAPPING_MOVES = 3
"""So many moves of one host within the window, the last included, or a return, are flapping."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something on the timeline of a handover."""

    entry: Entry
    offset: float | None
    """Seconds since the handover began; None when the host was restarted since."""
    at: float
    """The time of day, in seconds since 1970."""

    @property
    def what(self) -> str:
        """The step's name, or the kind of what else it was."""
        return self.entry.text("step") or self.entry.kind


@dataclass(slots=True)
class PastHandover:
    """One change of address towards one peer, as far as it is known."""

    start: Entry
    entries: list[Entry] = field(default_factory=list)
    """All that belongs to it, its start first, in the order in which it was written."""
    end: Entry | None = None
    """What ended it."""
    interrupted: str = ""
    """What came between, if it has not ended: a result."""
    without_address: float | None = None
    """Seconds before its start for which the host had no address; None if it had, or it is not known."""
    flapping: str = ""
    """In words, why this is flapping; empty if it is not."""

    @property
    def id(self) -> str:
        return self.start.handover

    @property
    def ours(self) -> bool:
        """This host has moved, not the peer."""
        return self.start.text("who") != "peer"

    @property
    def old(self) -> str:
        return self.start.text("old")

    @property
    def new(self) -> str:
        return self.start.text("new")

    @property
    def cause(self) -> str:
        return self.start.text("cause")

    @property
    def result(self) -> str:
        if self.end is not None:
            return self.end.text("result")
        if self.interrupted:
            return self.interrupted
        return CARRYING if any(entry.kind == WAITS for entry in self.entries) else RUNNING

    @property
    def detail(self) -> str:
        """Why it ended so, or what it waits for."""
        if self.end is not None:
            return self.end.text("detail")
        return next((entry.text("detail") for entry in reversed(self.entries) if entry.kind == WAITS), "")

    @property
    def duration(self) -> float | None:
        """Seconds from start to end; None while it is not over, or not known."""
        return self.offset(self.end) if self.end is not None else None

    @property
    def left_out(self) -> int:
        """Handovers with the peer before this one that were not written down: there were too many."""
        return int(self.start.number("left_out"))

    @property
    def moments(self) -> list[Moment]:
        """The timeline, in order of time. (What is written in the same moment may come in another order.)"""
        moments = [self._moment(entry) for entry in self.entries]
        known = sorted((m for m in moments if m.offset is not None), key=lambda moment: moment.offset or 0.0)
        return known + [moment for moment in moments if moment.offset is None]

    @property
    def steps(self) -> dict[str, float]:
        """Seconds from the start to each step that was done."""
        done: dict[str, float] = {}
        for moment in self.moments:
            if moment.entry.kind == STEP and moment.offset is not None:
                done.setdefault(moment.what, round(moment.offset, 6))
        return done

    @property
    def refusals(self) -> list[str]:
        """What the peer said when it did not agree."""
        return [entry.text("detail") for entry in self.entries if entry.kind == REFUSED_BY_PEER]

    @property
    def given_up(self) -> list[str]:
        """Attempts to move sockets, and sockets themselves, that were given up, and why."""
        return [entry.text("detail") for entry in self.entries if entry.kind in (GIVEN_UP, SOCKETS_ENDED)]

    @property
    def accounts(self) -> list[Entry]:
        """Entries that say how it stood with the sockets: the last is about the end, the others about what stayed."""
        return [entry for entry in self.entries if "moved" in entry.fields]

    def _moment(self, entry: Entry) -> Moment:
        offset = self.offset(entry)
        at = entry.at
        if offset is not None and abs(self.start.at + offset - at) < SAME_CLOCK:
            at = self.start.at + offset
        return Moment(entry, offset, at)

    def offset(self, entry: Entry) -> float | None:
        """Seconds since the start; None if that was before the host was started last."""
        if entry.boot != self.start.boot:
            return None
        return max(0.0, entry.monotonic - self.start.monotonic)


@dataclass(frozen=True, slots=True)
class Told:
    """The history as a whole."""

    handovers: tuple[PastHandover, ...]
    others: tuple[Entry, ...]
    """What happened outside of handovers."""

    def chronicle(self) -> list[PastHandover | Entry]:
        """All of it, in order of the time of day at which it began."""
        return sorted((*self.handovers, *self.others), key=began)


def began(item: PastHandover | Entry) -> float:
    """The time of day, in seconds since 1970."""
    return item.at if isinstance(item, Entry) else item.start.at


def tell(entries: Iterable[Entry]) -> Told:
    """Puts handovers together. What is left of one whose beginning is not kept any more is passed over."""
    teller = _Teller()
    for entry in entries:
        teller.take(entry)
    return Told(tuple(teller.handovers.values()), tuple(teller.others))


class _Teller:
    def __init__(self) -> None:
        self.handovers: dict[tuple[str, str, bool], PastHandover] = {}
        """By peer, id, and whose move it is."""
        self.others: list[Entry] = []
        self._open: dict[str, list[PastHandover]] = {}
        """For each peer those that have not ended."""
        self._recent: dict[tuple[str, bool], deque[PastHandover]] = {}
        """Of the last minute, for each peer and for each side."""
        self._lost: dict[str, Entry] = {}
        """For each peer, that this host has no address towards it."""

    def take(self, entry: Entry) -> None:
        if entry.kind == STARTED:
            self._started(entry)
            return
        belongs = self._handover_of(entry)
        if belongs is not None:
            self._goes_on(belongs, entry)
        elif not entry.handover:
            self.others.append(entry)
        if entry.kind == ADDRESS_LOST:
            self._lost[entry.peer] = entry
        elif entry.kind == ADDRESS_BACK:
            self._lost.pop(entry.peer, None)
        elif entry.kind in (DAEMON_STARTED, DAEMON_STOPPED):
            for peer in self._open:
                self._interrupt(peer, CUT_SHORT)
        elif entry.kind == FORGOTTEN:
            self._interrupt(entry.peer, LOST)

    def _started(self, entry: Entry) -> None:
        handover = PastHandover(entry, [entry])
        self.handovers[_key(entry)] = handover
        self._open.setdefault(entry.peer, []).append(handover)
        handover.flapping = self._flapping(handover)
        lost = self._lost.pop(entry.peer, None) if handover.ours else None
        if lost is not None and lost.text("address") == handover.old and lost.boot == entry.boot:
            handover.without_address = max(0.0, entry.monotonic - lost.monotonic)

    def _goes_on(self, handover: PastHandover, entry: Entry) -> None:
        handover.entries.append(entry)
        peers = self._open[entry.peer]
        if handover.interrupted:
            handover.interrupted = ""
            peers.append(handover)
        if entry.kind == FINISHED and handover.end is None:
            handover.end = entry
            peers.remove(handover)

    def _handover_of(self, entry: Entry) -> PastHandover | None:
        if entry.handover:
            return self.handovers.get(_key(entry))
        if entry.kind in _APART:
            return None
        running = [handover for handover in self._open.get(entry.peer, ()) if handover.result == RUNNING]
        return running[-1] if running else None

    def _interrupt(self, peer: str, how: str) -> None:
        for handover in self._open.get(peer, ()):
            handover.interrupted = how
        self._open[peer] = []

    def _flapping(self, handover: PastHandover) -> str:
        """In words; empty if it is an ordinary move."""
        start = handover.start
        recent = self._recent.setdefault((start.peer, handover.ours), deque())
        while recent and (
            recent[0].start.boot != start.boot or start.monotonic - recent[0].start.monotonic > FLAPPING_WINDOW
        ):
            recent.popleft()
        back = next((other for other in reversed(recent) if other.old == handover.new), None)
        recent.append(handover)
        if len(recent) >= FLAPPING_MOVES:
            return f"flapping: {len(recent)} moves within a minute"
        if back is not None:
            after = start.monotonic - back.start.monotonic
            return f"flapping: back at an address that was left {after:.0f} s before"
        return ""


def _key(entry: Entry) -> tuple[str, str, bool]:
    return entry.peer, entry.handover, entry.text("who") == "peer"

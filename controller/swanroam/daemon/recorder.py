"""What goes into the history on disk about one peer: its machine's reports, and what the host knows besides.

The words are for `swanroam history`, which reads them without knowing the protocol (`swanroam.history`). What can come
again and again is throttled, so that nobody drives the past out of a file of limited size.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from swanroam.daemon.throttle import Throttle
from swanroam.history import handovers as words
from swanroam.protocol.batch import AT_THE_PEER
from swanroam.protocol.events import Event, Fact, Report
from swanroam.protocol.handover import Cause, Handover, Step
from swanroam.protocol.messages import IPAddress, Obstacle
from swanroam.protocol.transfer import (
    Kept,
    MoveSockets,
    SocketsLetGo,
    SocketsMoved,
    SocketsStopped,
    StopSockets,
    Tally,
    TransferExpired,
    TransferFailed,
    TransferOrder,
)

Write = Callable[[str, Mapping[str, Any], float, float], None]
"""Kind, fields, monotonic time and age of an entry: `HistoryFile.write`."""

HANDOVERS, HANDOVER_INTERVAL = 60, 60.0
"""Handovers with a peer that are recorded: so many at once, then one in so many seconds."""
OTHERS, OTHERS_INTERVAL = 5, 60.0
"""The same for each other kind of entry."""
NAMED = 10
"""Kept sockets that are named; the others are counted."""

_LEFT_OUT = frozenset({Fact.CHANGE_ACCEPTED, Fact.PATH_PROVEN, Fact.CHANGE_STALE, Fact.UNEXPECTED_MESSAGE})
"""Steps say it as well, or it is normal."""
_BOUNDED = frozenset(
    {words.STARTED, words.STEP, words.FINISHED, words.WAITS, words.SOCKETS_ENDED, words.ADDRESS_RELEASED}
)
"""Of these a handover has few."""
_WITH_SOCKETS = frozenset({Fact.HANDOVER_FINISHED, Fact.RELEASE_WAITS})
_OBSTACLES = {
    Obstacle.CONFIGURED: "the configuration lets it stay",
    Obstacle.OWNER: "the program that has it can't be stopped",
    Obstacle.KIND: "a socket of its kind can't be moved",
    Obstacle.BOUND: "its program bound it to the old address",
    Obstacle.BUSY: "there was no time for it",
    Obstacle.CHANGED: "it was not any more what was agreed upon",
    Obstacle.ROUTE: "the routing does not let it use the new address",
    Obstacle.FAILED: "the kernel refused",
    Obstacle.LOST: "it could not be put together again: the connection is over",
    Obstacle.SILENT: "the peer did not answer",
}
"""Why a socket is kept. The others are not worth telling."""


@dataclass(slots=True)
class _Account:
    """Of a handover: what there was before, and how long programs were stopped since."""

    moved_before: int
    longest: float = 0.0


class Recorder:
    """Of one peer. Takes note; changes nothing."""

    def __init__(self, peer: str, identity: str, tally: Tally, write: Write) -> None:
        self._peer = {"peer": peer, "identity": identity}
        self._tally = tally
        self._write = write
        self._handovers = Throttle(HANDOVERS, HANDOVER_INTERVAL)
        self._others = Throttle(OTHERS, OTHERS_INTERVAL)
        self._accounts: dict[bytes, _Account] = {}
        """Of the handovers that are going on."""
        self._passed_over: set[bytes] = set()
        """Handovers that are not recorded: there were too many."""
        self._stopped: dict[int, tuple[TransferOrder, float]] = {}
        """Transfers for which programs are stopped, what stopped them, and since when."""
        self._lost: IPAddress | None = None
        """The address that we can't use, and that we have not moved away from yet."""

    def report(self, report: Report) -> None:
        """Something that the machine reports."""
        if report.fact in _LEFT_OUT:
            return
        fields: dict[str, Any] = {name: text for name in ("detail", "reason") if (text := getattr(report, name))}
        if (handover := report.handover) is None:
            if report.fact is not Fact.ADDRESS_RELEASED:  # what a peer has left long ago
                self._record(report.fact.value, fields)
            return
        if report.fact is Fact.HANDOVER_STARTED:
            self._started(handover)
        elif handover.id not in self._passed_over:
            fields |= _named(handover)
            at = self._now()
            if report.fact is Fact.HANDOVER_STEP:
                step, at = handover.steps[-1]
                fields = {**_named(handover), "step": step.value}
            if report.fact in _WITH_SOCKETS or fields.get("step") == Step.TRANSPORT.value:
                fields |= self._sockets(handover)
            if report.fact is Fact.HANDOVER_FINISHED:
                fields |= {"result": handover.result.value, "detail": handover.detail}
            self._record(report.fact.value, fields, at)
        if report.fact is Fact.HANDOVER_FINISHED:
            self._accounts.pop(handover.id, None)
            self._passed_over.discard(handover.id)

    def address_lost(self, address: IPAddress, cause: Cause, since: float | None) -> None:
        """This host can't use its address any more, since a time on the loop's clock if that is known."""
        if self._lost != address:
            self._lost = address
            self._record(words.ADDRESS_LOST, {"address": str(address), "cause": cause.value}, since)

    def address_kept(self, address: IPAddress) -> None:
        """This host can use its address, still or again."""
        if self._lost == address:
            self._record(words.ADDRESS_BACK, {"address": str(address)})
        self._lost = None

    def ordered(self, order: TransferOrder) -> None:
        """Sockets are about to be moved: with some orders, programs stop."""
        if isinstance(order, StopSockets | MoveSockets):
            self._stopped.setdefault(order.transfer, (order, self._now()))

    def answered(self, event: Event) -> None:
        """What came of an order, or of its time limit."""
        match event:
            case SocketsStopped(transfer, numbers) | SocketsMoved(transfer, numbers) if not numbers:
                order, _ = self._stopped.get(transfer, (None, 0.0))
                if isinstance(event, SocketsStopped) or isinstance(order, MoveSockets):
                    self._stopped.pop(transfer, None)  # none could be stopped
            case SocketsLetGo(transfer):
                self._ran_on(transfer)
            case TransferExpired(transfer):
                if self._ran_on(transfer):
                    self._record(words.GIVEN_UP, {"detail": "the peer did not answer in time; programs ran on"})
            case TransferFailed(transfer, reason):
                self._ran_on(transfer)
                self._record(words.GIVEN_UP, {"detail": reason})

    def _ran_on(self, transfer: int) -> bool:
        """The programs of a transfer, if any were stopped."""
        _, since = self._stopped.pop(transfer, (None, None))
        if since is None:
            return False
        for account in self._accounts.values():
            account.longest = max(account.longest, self._now() - since)
        return True

    def _started(self, handover: Handover) -> None:
        left_out = self._handovers.admit("", self._now())
        if left_out is None:
            self._passed_over.add(handover.id)
            return
        self._accounts[handover.id] = _Account(self._tally.moved)
        if handover.cause is not Cause.PEER:
            self._lost = None
        fields = {
            **_named(handover),
            "old": str(handover.old),
            "new": str(handover.new),
            "cause": handover.cause.value,
            **({"left_out": left_out} if left_out else {}),
        }
        self._record(words.STARTED, fields, handover.started)

    def _sockets(self, handover: Handover) -> dict[str, Any]:
        """How it stands with the sockets. An earlier run's are not known."""
        account = self._accounts.get(handover.id) or _Account(0)
        kept = [entry for entry in self._tally.kept.values() if entry.obstacle in _OBSTACLES]
        reasons = Counter(_reason(entry) for entry in kept)
        return {
            "moved": self._tally.moved - account.moved_before,
            "stopped": round(account.longest, 6),
            "kept": [{"reason": reason, "count": count} for reason, count in reasons.most_common(NAMED)],
            "kept_count": len(kept),
            "kept_sockets": [_socket(entry) for entry in kept[:NAMED]],
        }

    def _record(self, kind: str, fields: Mapping[str, Any], at: float | None = None) -> None:
        """`at`: when it happened, on the loop's clock; now if None."""
        now = self._now()
        if kind not in _BOUNDED:
            left_out = self._others.admit((kind, fields.get("reason")), now)
            if left_out is None:
                return
            fields = {**fields, **({"left_out": left_out} if left_out else {})}
        moment = now if at is None else at
        self._write(kind, {**self._peer, **fields}, moment, now - moment)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _named(handover: Handover) -> dict[str, str]:
    return {"handover": handover.name, "who": "peer" if handover.cause is Cause.PEER else "we"}


def _reason(kept: Kept) -> str:
    general = _OBSTACLES[kept.obstacle]
    return f"{general}, {kept.detail}" if kept.detail == AT_THE_PEER else kept.detail or general


def _socket(kept: Kept) -> str:
    owners = f" ({', '.join(kept.owners)})" if kept.owners else ""
    return f"{kept.key}{owners}: {_reason(kept)}"

"""What becomes of a machine's reports: log lines, the history of handovers, and the trouble that `status` shows.

What each message of a peer can cause at will is throttled, so that nobody fills the log from afar.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from swanroam.daemon.recorder import Recorder
from swanroam.daemon.throttle import Throttle
from swanroam.protocol.events import Fact, Report
from swanroam.protocol.handover import Handover, Step
from swanroam.protocol.transfer import Tally

HISTORY = 50
"""Finished handovers that `status` can show."""
BURST, INTERVAL = 5, 60.0
"""Lines of one kind that a peer can cause at will: so many at once, then one in so many seconds."""

_WARNINGS = frozenset(
    {
        Fact.PEER_SILENT,
        Fact.PEER_NOT_FOUND,
        Fact.CHANGE_REFUSED_BY_PEER,
        Fact.CHANGE_REFUSED,
        Fact.PATH_NOT_PROVEN,
        Fact.FILTERS_FAILED,
        Fact.PEER_FORGOTTEN,
        Fact.SOCKETS_ENDED,
    }
)

_AT_WILL = frozenset({Fact.CHANGE_STALE, Fact.CHANGE_REFUSED, Fact.PATH_NOT_PROVEN, Fact.UNEXPECTED_MESSAGE})
"""What each message of a peer can cause, without anything being changed."""

_TROUBLES = _WARNINGS - {
    Fact.PEER_SILENT,
    Fact.PEER_NOT_FOUND,
    Fact.CHANGE_REFUSED_BY_PEER,
    Fact.SOCKETS_ENDED,
}
"""Warnings that `status` goes on showing; the others are seen in the machine's own state."""
_MENDED = frozenset({Fact.HANDOVER_FINISHED, Fact.PEER_REGISTERED, Fact.CHANGE_ACCEPTED, Fact.PATH_PROVEN})
"""What ends a trouble."""

_Kind = tuple[Fact, str]


class Reports:
    """Of one peer."""

    def __init__(self, log: Any, tally: Tally, recorder: Recorder) -> None:
        self.history: deque[Handover] = deque(maxlen=HISTORY)
        self.trouble: Report | None = None
        """The last thing that went wrong with this peer and was not mended since."""
        self.log = log  # structlog's bound loggers have no common type
        self._tally = tally
        self._recorder = recorder
        self._throttle = Throttle(BURST, INTERVAL)
        self._to_tell: set[_Kind] = set()
        """Lines of these kinds were left out, and will be told of."""

    def take(self, report: Report) -> None:
        """Something that the machine reports."""
        fields = self._fields(report)
        self._recorder.report(report)
        if report.fact is Fact.HANDOVER_FINISHED and report.handover is not None:
            self.history.append(report.handover)
        if report.fact in _TROUBLES:
            self.trouble = report
        elif report.fact in _MENDED:
            self.trouble = None
        if report.fact in _AT_WILL:
            self._write_throttled(report, fields)
        else:
            self._write(report.fact, fields)

    def _fields(self, report: Report) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        handover = report.handover
        if handover is not None:
            fields["handover"] = handover.name
        if report.fact is Fact.HANDOVER_FINISHED and handover is not None:
            fields |= {"old": str(handover.old), "new": str(handover.new), "result": handover.result.value}
            fields |= {"cause": handover.cause.value, "seconds": handover.step_seconds}
            if handover.detail:
                fields["detail"] = handover.detail
        elif report.fact is Fact.HANDOVER_STEP and handover is not None:
            fields |= {"step": report.detail, "seconds": handover.step_seconds[report.detail]}
            if handover.steps[-1][0] is Step.TRANSPORT:
                fields |= {"moved": self._tally.moved, "kept": len(self._tally.kept)}
        elif report.detail:
            fields["detail"] = report.detail
        if report.reason:
            fields["reason"] = report.reason
        return fields

    def _write_throttled(self, report: Report, fields: dict[str, Any]) -> None:
        """What is left out is told with the next line of its kind, at the latest when that may be written."""
        loop = asyncio.get_running_loop()
        kind = report.fact, report.reason
        left_out = self._throttle.admit(kind, loop.time())
        if left_out is not None:
            self._write(report.fact, fields | ({"left_out": left_out} if left_out else {}))
        elif kind not in self._to_tell:
            self._to_tell.add(kind)
            loop.call_later(INTERVAL, self._tell_left_out, kind)

    def _tell_left_out(self, kind: _Kind) -> None:
        self._to_tell.discard(kind)
        if left_out := self._throttle.left_out(kind):
            fact, reason = kind
            self._write(fact, {"left_out": left_out} | ({"reason": reason} if reason else {}))

    def _write(self, fact: Fact, fields: dict[str, Any]) -> None:
        (self.log.warning if fact in _WARNINGS else self.log.info)(fact.value, **fields)

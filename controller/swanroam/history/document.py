"""What `swanroam history --json` prints: its type, and the source of its published schema (docs/schemas/)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypedDict

from swanroam.history.clock import iso
from swanroam.history.handovers import PastHandover
from swanroam.history.store import Entry

VERSION: Final = 1
"""Grows when a key changes its meaning or goes. New keys, and new words for results and causes, may come any time."""


class KeptDocument(TypedDict):
    """Sockets that stayed on the old address for one reason."""

    reason: str
    count: int


class SocketsDocument(TypedDict):
    """What became of the sockets."""

    moved: Annotated[int, "at the new address"]
    stopped: Annotated[float, "seconds for which programs were stopped at most, in one transfer"]
    kept: Annotated[list[KeptDocument], "those that stayed, by reason; the ten most frequent reasons"]
    kept_count: Annotated[int, "how many stayed"]
    kept_sockets: Annotated[list[str], "ten of them: own port - peer's port, programs, reason"]


class MomentDocument(TypedDict):
    """Something on the timeline."""

    at: Annotated[str, "local time with its offset from UTC (RFC 3339)"]
    offset: Annotated[float | None, "seconds since the handover began; null: the host was restarted since"]
    what: Annotated[str, "a step, or a log event"]
    detail: str


class PastHandoverDocument(TypedDict):
    """One change of address."""

    id: Annotated[str, "the same on both hosts, in logs, status and history"]
    peer: Annotated[str, "its name"]
    identity: Annotated[str, "its IKE identity"]
    moved: Annotated[str, "who: us or peer"]
    old: str
    new: str
    began: Annotated[str, "local time with its offset from UTC (RFC 3339)"]
    cause: Annotated[str, "planned, preferred, deprecated, gone, link_down, peer, unknown"]
    flapping: Annotated[str, "in words, why it was flapping; empty if it was not"]
    without_address: Annotated[float | None, "seconds without any address before it began; null: none, or not known"]
    left_out: Annotated[int, "handovers with this peer right before that were not written down: too many"]
    result: Annotated[str, "done, overtaken, refused, unanswered, unproven, running, carrying, cut_short, forgotten"]
    detail: Annotated[str, "why; empty if there is nothing to say"]
    duration: Annotated[float | None, "seconds from start to end; null: no end, or not known"]
    steps: Annotated[dict[str, float], "for each step done, seconds since it began"]
    sockets: Annotated[SocketsDocument | None, "null: they were not gone over"]
    refusals: Annotated[list[str], "what the peer said when it did not agree"]
    given_up: Annotated[list[str], "attempts to move sockets that were given up, sockets that were ended, and why"]
    timeline: list[MomentDocument]


class EventDocument(TypedDict):
    """Something that happened outside of a handover."""

    at: Annotated[str, "local time with its offset from UTC (RFC 3339)"]
    what: Annotated[str, "a log event"]
    peer: Annotated[str, "its name; empty: all of them"]
    detail: str


class HistoryDocument(TypedDict):
    """What `swanroam history --json` prints."""

    version: Annotated[Literal[1], "of this document; grows when a key changes its meaning or goes"]
    unreadable: Annotated[int, "lines of the file that make no sense: torn by a crash, damaged, of another version"]
    handovers: Annotated[list[PastHandoverDocument], "in the order in which they began"]
    events: Annotated[list[EventDocument], "the rest, in order"]


def history_document(handovers: list[PastHandover], others: list[Entry], unreadable: int) -> HistoryDocument:
    """The document."""
    return {
        "version": VERSION,
        "unreadable": unreadable,
        "handovers": [_handover(handover) for handover in handovers],
        "events": [
            {"at": iso(entry.at), "what": entry.kind, "peer": entry.peer, "detail": entry_detail(entry)}
            for entry in others
        ],
    }


def entry_detail(entry: Entry) -> str:
    """What there is to say about an entry, and how many like it were left out before."""
    parts = [entry.text("address"), entry.text("detail")]
    left_out = entry.fields.get("left_out")
    parts.append(f"{left_out} more like this before it" if left_out else "")
    return "; ".join(part for part in parts if part)


def sockets_of(handover: PastHandover) -> SocketsDocument | None:
    """What became of the sockets, as far as it was written down."""
    accounts = handover.accounts
    if not accounts:
        return None
    # At the end nothing is kept any more: what had stayed has closed since, or has moved after all.
    stayed = next((entry for entry in reversed(accounts) if entry is not handover.end), accounts[-1])
    reasons = [one for one in _list(stayed, "kept") if isinstance(one, dict)]
    return {
        "moved": int(accounts[-1].number("moved")),
        "stopped": float(accounts[-1].number("stopped")),
        "kept": [{"reason": str(one.get("reason")), "count": _whole(one.get("count"))} for one in reasons],
        "kept_count": int(stayed.number("kept_count")),
        "kept_sockets": [str(one) for one in _list(stayed, "kept_sockets")],
    }


def _list(entry: Entry, name: str) -> list[Any]:
    value = entry.fields.get(name)
    return value if isinstance(value, list) else []


def _rounded(value: float | None) -> float | None:
    """To the microsecond."""
    return None if value is None else round(value, 6)


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int) else 0


def _handover(handover: PastHandover) -> PastHandoverDocument:
    return {
        "id": handover.id,
        "peer": handover.start.peer,
        "identity": handover.start.text("identity"),
        "moved": "us" if handover.ours else "peer",
        "old": handover.old,
        "new": handover.new,
        "began": iso(handover.start.at),
        "cause": handover.cause,
        "flapping": handover.flapping,
        "without_address": _rounded(handover.without_address),
        "left_out": handover.left_out,
        "result": handover.result,
        "detail": handover.detail,
        "duration": _rounded(handover.duration),
        "steps": handover.steps,
        "sockets": sockets_of(handover),
        "refusals": handover.refusals,
        "given_up": handover.given_up,
        "timeline": [
            {
                "at": iso(moment.at),
                "offset": _rounded(moment.offset),
                "what": moment.what,
                "detail": entry_detail(moment.entry),
            }
            for moment in handover.moments
        ],
    }

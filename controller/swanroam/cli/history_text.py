"""The history for people: a list of what happened, and the timeline of one handover."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from swanroam.cli.screen import PLAIN, Colour, Paint, counted, labelled, wrapped
from swanroam.history.clock import day, day_and_time, to_the_millisecond, zone
from swanroam.history.document import entry_detail, sockets_of
from swanroam.history.handovers import Moment, PastHandover, Told, began
from swanroam.history.store import Entry
from swanroam.history.words import cause, event, left_out, moment_words, moved, result, seconds, silence

_COLOURS = {
    "done": Colour.GOOD,
    "refused": Colour.BAD,
    "unanswered": Colour.BAD,
    "unproven": Colour.BAD,
    "forgotten": Colour.BAD,
}
"""Of results; the others need a second look."""


def render_all(told: Told, path: Path, since: float | None, now: float, paint: Paint = PLAIN) -> str:
    """A list, by day; the latest is the last."""
    total = len(told.handovers)
    begin = f" since {day_and_time(since)}" if since is not None else ""
    heading = f"{counted(total, 'handover')}{begin}; times are {zone(now)}"
    lines = [paint(heading, Colour.HEADING)]
    chronicle = told.chronicle()
    if not chronicle:
        lines += wrapped(f"Nothing is in {path}. The daemon writes there what happens.", "")
    for date, items in groupby(chronicle, key=lambda item: day(began(item))):
        lines += ["", paint(f"{date:%A} {date}", Colour.HEADING)]
        for item in items:
            lines += _event(item) if isinstance(item, Entry) else _summary(item, paint)
    if told.handovers:
        lines += ["", "The timeline of one: swanroam history ID (both hosts have it under the same)"]
    return "\n".join(lines)


def render_one(handover: PastHandover, paint: Paint = PLAIN) -> str:
    """All that is known of it."""
    colour = _COLOURS.get(handover.result, Colour.WARNING)
    lines = paint.lines(wrapped(f"Handover {handover.id}: {result(handover)}", "  "), colour)
    if handover.detail:
        lines += labelled("because", handover.detail)
    start = handover.start
    name = start.peer if start.peer == start.text("identity") else f"{start.peer}, {start.text('identity')}"
    lines += labelled("peer", name)
    lines += labelled("we moved" if handover.ours else "it moved", f"{handover.old} -> {handover.new}")
    lines += labelled("began", f"{day_and_time(start.at)} ({zone(start.at)})")
    lines += labelled("cause", cause(handover))
    if handover.left_out:
        lines += labelled("left out", left_out(handover))
    lines += labelled("silence", silence(handover))
    lines += _sockets(handover)
    for refusal in handover.refusals:
        lines += labelled("refused", refusal)
    for what in handover.given_up:
        lines += labelled("given up", what)
    lines += ["", paint("  time            offset      after  what", Colour.HEADING)]
    before: float | None = None
    for moment in handover.moments:
        lines += _moment(moment, before)
        before = moment.offset if moment.offset is not None else before
    return "\n".join(lines)


def _summary(handover: PastHandover, paint: Paint) -> list[str]:
    time = to_the_millisecond(handover.start.at)[:8]
    lines = wrapped(f"  {time}  {handover.start.peer}: {moved(handover)}", " " * 12)
    colour = _COLOURS.get(handover.result, Colour.WARNING)
    lines += paint.lines(wrapped(f"{' ' * 12}{handover.id}: {result(handover)}", " " * 12), colour)
    facts = [handover.detail] if handover.detail else []
    if handover.ours or handover.flapping:
        facts.append(cause(handover))
    if handover.left_out:
        facts.append(left_out(handover))
    account = sockets_of(handover)
    if account is not None:
        facts.append(f"{counted(account['moved'], 'socket')} moved, {account['kept_count']} stayed")
    return lines + wrapped(" " * 12 + "; ".join(facts), " " * 12)


def _event(entry: Entry) -> list[str]:
    detail = entry_detail(entry)
    peer = f"{entry.peer}: " if entry.peer else ""
    what = f"{event(entry.kind)}: {detail}" if detail else event(entry.kind)
    return wrapped(f"  {to_the_millisecond(entry.at)[:8]}  {peer}{what}", " " * 12)


def _sockets(handover: PastHandover) -> list[str]:
    account = sockets_of(handover)
    if account is None:
        return labelled("sockets", "were not gone over")
    stopped = f"; programs were stopped for {seconds(account['stopped'])} at most" if account["stopped"] else ""
    lines = labelled("sockets", f"{account['moved']} moved, {account['kept_count']} stayed{stopped}")
    for kept in account["kept"]:
        lines += labelled("stayed", f"{kept['count']}: {kept['reason']}")
    for socket in account["kept_sockets"]:
        lines += labelled("", socket)
    if account["kept_count"] > len(account["kept_sockets"]):
        lines += labelled("", f"and {account['kept_count'] - len(account['kept_sockets'])} more")
    return lines


def _moment(moment: Moment, before: float | None) -> list[str]:
    offset, after = "?", ""
    if moment.offset is not None:
        offset = seconds(moment.offset)
        after = f"+{seconds(moment.offset - before)}" if before is not None else ""
    return wrapped(f"  {to_the_millisecond(moment.at)} {offset:>9} {after:>10}  {moment_words(moment)}", " " * 37)

"""The timeline of one handover as a drawing: what was done when, on a logarithmic axis.

Steps take milliseconds and the grace period seconds, so equal distances are factors. Colours come from a style sheet
that follows the viewer's scheme, light or dark, over a background of its own. A text has a line, or as many as it
needs, to itself, so nothing overlaps whatever the font: widths are reckoned generously.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from xml.sax.saxutils import escape

from swanroam.history.clock import day_and_time, zone
from swanroam.history.document import entry_detail, sockets_of
from swanroam.history.handovers import STARTED, STEP, Moment, PastHandover
from swanroam.history.words import RESULTS, STEPS, cause, event, moved, result, seconds, silence

WIDTH = 1040
_MARGIN = 24
_BARS = 370
"""Where the axis begins; left of it are labels."""
_BARS_END = 800
_FIGURES = 836
_LINE = 17
_GAP = 12
_GLYPH = 0.6
"""Width of a character, as a part of the font's size."""
_UNIT = 0.01
"""Seconds below which the axis is about linear."""
_TICKS = (0.0, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36000.0, 864000.0)
_TICK_NAMES = ("0", "10 ms", "100 ms", "1 s", "10 s", "1 min", "10 min", "1 h", "10 h", "10 d")
_TICK_ROOM = 54
_BAD = frozenset(
    {
        "address_change_refused_by_peer",
        "address_change_refused",
        "filters_failed",
        "path_not_proven",
        "peer_silent",
        "peer_not_found",
        "peer_forgotten",
        "sockets_ended",
        "transfer_given_up",
    }
)
_STYLE = """
    text { font-family: system-ui, "DejaVu Sans", sans-serif; font-size: 12px; fill: #24292f }
    .title { font-size: 18px; font-weight: bold }
    .name { font-weight: bold }
    .aside { fill: #57606a }
    .ground { fill: #ffffff }
    .grid { stroke: #d0d7de; stroke-width: 1 }
    .step { fill: #0969da }
    .event { fill: #9a6700 }
    .bad { fill: #cf222e }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .aside { fill: #9da7b3 }
      .ground { fill: #0d1117 }
      .grid { stroke: #30363d }
      .step { fill: #58a6ff }
      .event { fill: #d29922 }
      .bad { fill: #ff7b72 }
    }
"""


@dataclass(slots=True)
class _Page:
    """What is drawn so far, and how far down the page is full."""

    parts: list[str]
    y: float = _MARGIN

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        attributes = f' class="{style}"' if style else ""
        attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
        self.parts.append(f'<text x="{x:.0f}" y="{y:.0f}"{attributes}>{_safe(words)}</text>')

    def paragraph(self, words: str, style: str = "", *, x: float = _MARGIN, end: float = WIDTH - _MARGIN) -> None:
        """From `x` to `end`, in as many lines as it takes."""
        size = 18 if style == "title" else 12
        for line in textwrap.wrap(words, max(10, int((end - x) / (size * _GLYPH)))):
            self.y += _LINE + size - 12
            self.text(x, self.y, line, style)


def draw(handover: PastHandover) -> str:
    """The handover as an SVG 1.1 document of its own."""
    page = _Page([])
    title = f"Handover {handover.id}: {result(handover)}"
    page.paragraph(title, "title")
    page.y += 4
    start = handover.start
    page.paragraph(f"{start.peer} ({start.text('identity')}): {moved(handover)}")
    page.paragraph(f"Began {day_and_time(start.at)} ({zone(start.at)}). Cause: {cause(handover)}.")
    page.paragraph(f"Silence: {silence(handover)}.")
    for line in _account(handover):
        page.paragraph(line)
    if handover.detail:
        page.paragraph(f"Because: {handover.detail}")
    page.y += 2 * _GAP
    _timeline(page, handover)
    height = math.ceil(page.y + _MARGIN)
    frame = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    body = "\n".join(page.parts)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" {frame} role="img">\n'
        f"<title>{_safe(title)}</title>\n<style>{_STYLE}</style>\n"
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>\n{body}\n</svg>\n'
    )


def _account(handover: PastHandover) -> list[str]:
    account = sockets_of(handover)
    if account is None:
        return []
    stopped = f"; programs were stopped for {seconds(account['stopped'])} at most" if account["stopped"] else ""
    lines = [f"Sockets: {account['moved']} moved, {account['kept_count']} stayed{stopped}."]
    return lines + [f"Stayed: {kept['count']}: {kept['reason']}" for kept in account["kept"]]


def _timeline(page: _Page, handover: PastHandover) -> None:
    moments = handover.moments
    longest = max([_UNIT * 10, *(moment.offset for moment in moments if moment.offset is not None)])
    top = page.y
    _axis(page, longest)
    grid = len(page.parts)
    before = 0.0
    for moment in moments:
        _row(page, moment, before, longest)
        if moment.entry.kind == STEP and moment.offset is not None:
            before = moment.offset
    lines = [
        f'<line class="grid" x1="{x:.1f}" y1="{top + 6:.0f}" x2="{x:.1f}" y2="{page.y + 6:.0f}"/>'
        for x, _ in _ticks(longest)
    ]
    page.parts[grid:grid] = lines  # behind the bars


def _axis(page: _Page, longest: float) -> None:
    page.text(_MARGIN, page.y, "time since it began (logarithmic)", "aside")
    for x, name in _ticks(longest):
        page.text(x, page.y, name, "aside", "middle")
    page.text(_FIGURES, page.y, "done after", "aside")
    page.y += _GAP


def _row(page: _Page, moment: Moment, before: float, longest: float) -> None:
    top = page.y
    is_step = moment.entry.kind == STEP
    step = moment.entry.text("step")
    end = _BARS - _GAP
    page.paragraph(step if is_step else event(moment.what), "name", end=end)
    detail = STEPS.get(step, "") if is_step else _event_detail(moment)
    if moment.offset is None:
        detail = f"{detail} (after a restart of the host)"
    else:
        middle = top + _LINE - 4
        _mark(page, moment, before, longest, middle)
        since = f" (+{seconds(moment.offset - before)})" if is_step else ""
        page.text(_FIGURES, top + _LINE, f"{seconds(moment.offset)}{since}")
    page.paragraph(detail, "aside", end=end)
    page.y += _GAP


def _event_detail(moment: Moment) -> str:
    """The first line of the drawing has said from where to where, and because of what."""
    if moment.entry.kind == STARTED:
        return ""
    ended = moment.entry.text("result")
    return RESULTS.get(ended, ended) if ended else entry_detail(moment.entry)


def _mark(page: _Page, moment: Moment, before: float, longest: float, middle: float) -> None:
    assert moment.offset is not None
    x = _place(moment.offset, longest)
    if moment.entry.kind == STEP:
        left = _place(before, longest)
        width = max(3.0, x - left)
        page.parts.append(
            f'<rect class="step" x="{x - width:.1f}" y="{middle - 6:.0f}" width="{width:.1f}" height="12" rx="2"/>'
        )
        return
    style = "bad" if moment.entry.kind in _BAD else "event"
    page.parts.append(f'<circle class="{style}" cx="{x:.1f}" cy="{middle:.0f}" r="5"/>')


def _place(offset: float, longest: float) -> float:
    """Where on the axis."""
    share = math.log10(1 + offset / _UNIT) / math.log10(1 + longest / _UNIT)
    return _BARS + share * (_BARS_END - _BARS)


def _ticks(longest: float) -> list[tuple[float, str]]:
    """Those that have room beside the one before."""
    ticks: list[tuple[float, str]] = []
    for offset, name in zip(_TICKS, _TICK_NAMES, strict=True):
        x = _place(offset, longest)
        if offset <= longest and (not ticks or x - ticks[-1][0] >= _TICK_ROOM):
            ticks.append((x, name))
    return ticks


def _safe(words: str) -> str:
    """Without what XML 1.0 does not allow, or gives a meaning."""
    return escape("".join(char if char.isprintable() else " " if char.isspace() else "?" for char in words))

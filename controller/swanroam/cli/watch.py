"""A view that is drawn again and again, until Ctrl-C.

On a terminal each picture takes the place of the last one. Elsewhere (a file, a pipe) nothing can be taken back: each
picture that differs from the last is written below it, under the time. Source of the control sequences:
ECMA-48, and xterm's private modes 25 (cursor) and 1049 (a screen of its own, so that what was there comes back).
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from typing import TextIO

from swanroam.cli.screen import COLUMNS, counted
from swanroam.history.clock import day_and_time, stamp

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(
    draw: Callable[[], str],
    stream: TextIO,
    interval: float,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Draws every `interval` seconds; returns when Ctrl-C is pressed."""
    terminal = stream.isatty()
    try:
        if terminal:
            stream.write(_ENTER)
        before = ""
        while True:
            text = draw()
            if terminal:
                stream.write(_picture(text, interval))
            elif text != before:
                stream.write(f"--- {day_and_time(stamp())}\n{text}\n")
            stream.flush()
            before = text
            pause(interval)
    except KeyboardInterrupt:
        return
    finally:
        if terminal:
            stream.write(_LEAVE)
            stream.flush()


def _picture(text: str, interval: float) -> str:
    """As much as the window can show, and how much it can't."""
    size = shutil.get_terminal_size((COLUMNS, 24))
    foot = f"{day_and_time(stamp())}, every {interval:g} s; Ctrl-C ends"
    shown: list[str] = []
    room = size.lines - 1
    lines = text.splitlines()
    for number, line in enumerate(lines):
        height = max(1, -(-visible_length(line) // size.columns))
        if height > room:
            foot = f"{counted(len(lines) - number, 'more line')}; enlarge the window. {foot}"
            break
        shown.append(line)
        room -= height
    rows = [f"{line}{_END_OF_LINE}" for line in (*shown, foot[: size.columns])]
    return _HOME + "\r\n".join(rows) + _BELOW


def visible_length(line: str) -> int:
    """Columns that a line takes, colours aside."""
    return len(re.sub(r"\x1b\[[0-9;]*m", "", line))

"""What the commands for people share: lines that fit, words for numbers, and colours where they can be seen."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from enum import Enum
from typing import TextIO

COLUMNS = 80
"""How wide commands write."""
_TIE = "\N{NO-BREAK SPACE}"
LABEL = 12
"""Columns of the label before a line's text."""


class Colour(Enum):
    """By what it means. The values are parameters of SGR (ECMA-48 section 8.3.117)."""

    GOOD = "32"
    WARNING = "33"
    BAD = "1;31"
    HEADING = "1"
    ASIDE = "2"


class Paint:
    """Colours, or none."""

    def __init__(self, *, coloured: bool) -> None:
        self.coloured = coloured

    @classmethod
    def for_stream(cls, stream: TextIO, environment: Mapping[str, str] = os.environ) -> Paint:
        """Colours only for a terminal that can show them, and for a user who wants them (https://no-color.org)."""
        wanted = not environment.get("NO_COLOR") and environment.get("TERM", "dumb") != "dumb"
        return cls(coloured=stream.isatty() and wanted)

    def __call__(self, text: str, colour: Colour) -> str:
        return f"\x1b[{colour.value}m{text}\x1b[0m" if self.coloured and text else text

    def lines(self, lines: list[str], colour: Colour) -> list[str]:
        """Each line for itself: colours do not run on over the end of one."""
        return [self(line, colour) for line in lines]


PLAIN = Paint(coloured=False)


def wrapped(text: str, indent: str) -> list[str]:
    """The text in lines of at most 80 columns, where its words allow it: addresses are for copying, never broken.

    What is no printable character is shown as a question mark: a peer's words must not command a terminal.
    """
    lines = textwrap.wrap(
        printable(text),
        COLUMNS,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )
    return [line.replace(_TIE, " ") for line in lines]


def together(text: str) -> str:
    """Words that stay on one line, as a number and its unit."""
    return text.replace(" ", _TIE)


def labelled(label: str, text: str) -> list[str]:
    """A line of a block: what it is about, and the text beside it."""
    return wrapped(f"  {label:<{LABEL}} {text}", " " * (LABEL + 3))


def printable(text: str) -> str:
    """Without control characters."""
    return "".join(char if char.isprintable() or char == _TIE else " " if char.isspace() else "?" for char in text)


def ago(value: float) -> str:
    """About how long something is past, in the largest unit that fits."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if value >= size:
            return counted(int(value // size), unit)
    return counted(int(value), "second")


def counted(number: int, word: str) -> str:
    """With an s where there is not just one."""
    return f"{number} {word}{'' if number == 1 else 's'}"

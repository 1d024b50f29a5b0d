"""The commands that documents show: in blocks of code, and within sentences.

A block is one of shell commands when its first word is a program that some document uses (PROGRAMS, or a path), unless
it has a language that says something else. Words in capitals stand for what the reader puts in; what is in square
brackets may be left out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = frozenset(
    """
    ansible-galaxy ansible-playbook ansible-vault apt apt-get cat chgrp chmod cp curl docker dpkg getent grep ip
    journalctl ln make mkdir modprobe nft nstat ping pip python3 rm sed ss ssh swanctl swanroam sysctl systemctl
    systemd-analyze systemd-sysusers tc tcpdump usermod
    """.split()  # noqa: SIM905 - read as a list of words
)
SHELL = ("", "sh", "shell", "bash", "console")
_SEPARATORS = frozenset({"&&", "||", ";", "|", "&"})
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```|(?<=\n\n)((?: {4}[^\n]*\n|\n(?= {4}))+)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """One program with its arguments."""

    document: str
    text: str
    """As the document has it."""
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return self.words[0]

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"


def blocks(text: str) -> Iterator[str]:
    """Blocks of shell commands, each line a command, without comments."""
    for language, fenced, indented in _BLOCK.findall(text):
        block = fenced or indented
        if language in SHELL and block.split() and _is_program(block.split()[0]):
            yield "\n".join(lines_of(block))


def lines_of(block: str) -> Iterator[str]:
    """Commands of a block; lines that end in a backslash go on."""
    for line in block.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s+)# .*", "", line).strip()
        if command:
            yield command


def inline(text: str) -> Iterator[str]:
    """Commands within sentences and tables: code that begins with a program and has arguments."""
    prose = _BLOCK.sub("", text)
    for code in re.findall(r"`([^`\n]+)`", prose):
        words = code.split()
        if len(words) > 1 and _is_program(words[0]) and not re.match(r"\S+ [=({]", code):
            yield code.replace("\\|", "|")


def _is_program(word: str) -> bool:
    return word in PROGRAMS or word.startswith("/opt/")


def commands(path: Path) -> Iterator[Command]:
    """Every command that a document shows, of pipes and lists each."""
    text = path.read_text(encoding="utf-8")
    found = [line for block in blocks(text) for line in block.splitlines()] + list(inline(text))
    for line in dict.fromkeys(found):
        for words in split(line):
            yield Command(path.name, line, words)


def split(line: str) -> Iterator[tuple[str, ...]]:
    """The programs of a line with their arguments; redirections are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _SEPARATORS:
            words.append(word)
        elif words:
            yield tuple(words)
            words = []

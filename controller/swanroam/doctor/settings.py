"""strongswan.conf with what it includes, as charon reads it. Source: strongswan.conf(5).

charon does not tell its options over VICI. What was read here is in force once charon has been started after the last
change of a file, so the time of that change belongs to it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT = Path("/etc/strongswan.conf")
_TOKEN = re.compile(
    r'(?P<space>[ \t\r]+)|(?P<comment>#[^\n]*)|(?P<string>"(?:\\.|[^"\\])*")|(?P<word>[^\s"#{}=]+)|(?P<sign>[{}=\n])'
)
_INCLUDE_DEPTH = 10  # MAX_INCLUSION_LEVEL, strongSwan src/libstrongswan/settings/settings_parser.h


class SettingsError(Exception):
    """strongswan.conf can't be read; the message says which file and why."""


@dataclass(slots=True)
class Section:
    """Options and sections by name; the last one that was read counts, sections of one name are one."""

    options: dict[str, str] = field(default_factory=dict)
    sections: dict[str, Section] = field(default_factory=dict)

    def option(self, path: str) -> str | None:
        """An option by its path below this section, `plugins.kernel-netlink.roam_events`."""
        *names, name = path.split(".")
        section: Section | None = self
        for part in names:
            section = section.sections.get(part) if section is not None else None
        return None if section is None else section.options.get(name)


@dataclass(slots=True)
class Settings:
    """All files together."""

    path: Path
    """Of strongswan.conf itself."""
    root: Section = field(default_factory=Section)
    changed: dict[Path, float] = field(default_factory=dict)
    """When each file was changed last: seconds since 1970."""

    def charon(self, path: str) -> str | None:
        """An option of the daemon's; charon-systemd looks into its own section first."""
        for name in ("charon-systemd", "charon"):
            section = self.root.sections.get(name)
            if section is not None and (value := section.option(path)) is not None:
                return value
        return None


def read_settings(path: Path) -> Settings:
    """Raises SettingsError."""
    settings = Settings(path)
    _read(settings, path, settings.root, 0)
    return settings


def _read(settings: Settings, path: Path, into: Section, depth: int) -> None:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        settings.changed[path] = path.stat().st_mtime
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    if depth > _INCLUDE_DEPTH:
        raise SettingsError(f"{path} is included by itself")
    _Parser(settings, path, depth, list(_tokens(text, path))).section(into, nested=False)


def _tokens(text: str, path: Path) -> Iterator[str]:
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise SettingsError(f"{path}, line {text.count(chr(10), 0, position) + 1}: a quotation mark has no end")
        position = found.end()
        if found.lastgroup not in ("space", "comment"):
            yield found.group()


class _Parser:
    def __init__(self, settings: Settings, path: Path, depth: int, tokens: list[str]) -> None:
        self._settings = settings
        self._path = path
        self._depth = depth
        self._tokens = tokens
        self._at = 0

    def section(self, into: Section, *, nested: bool) -> None:
        """Up to its closing brace, or the end of the file."""
        while self._at < len(self._tokens):
            word = self._next()
            if word == "\n":
                continue
            if word == "}":
                if nested:
                    return
                raise SettingsError(f"{self._path}: a brace closes what was not opened")
            if word == "include":
                self._include(into)
                continue
            words = [word, *self._words()]
            sign = self._next()
            if sign == "{":
                self._open(into, words)
            elif sign == "=":
                into.options[_unquoted(words[0])] = " ".join(map(_unquoted, self._words()))
        if nested:
            raise SettingsError(f"{self._path}: a section is not closed")

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1] if self._at <= len(self._tokens) else "\n"

    def _words(self) -> list[str]:
        """Up to a sign, which is left; a section's opening brace may stand on the next line."""
        words = []
        while self._at < len(self._tokens) and self._tokens[self._at] not in ("{", "}", "=", "\n"):
            words.append(self._next())
        ahead = self._at
        while ahead < len(self._tokens) and self._tokens[ahead] == "\n":
            ahead += 1
        if ahead < len(self._tokens) and self._tokens[ahead] == "{":
            self._at = ahead
        return words

    def _open(self, into: Section, words: list[str]) -> None:
        """`name {`, or `name : other, another {`, which takes over what those have."""
        name = _unquoted(words[0].rstrip(":"))
        section = into.sections.setdefault(name, Section())
        for other in " ".join(words[1:]).lstrip(":").replace(",", " ").split():
            parent = self._settings.root
            for part in other.split("."):
                parent = parent.sections.get(part, Section())
            _merge(parent, section)
        self.section(section, nested=True)

    def _include(self, into: Section) -> None:
        pattern = " ".join(map(_unquoted, self._words()))
        for name in sorted(glob.glob(os.path.join(self._path.parent, pattern))):  # noqa: PTH118, PTH207 - may be absolute
            _read(self._settings, Path(name), into, self._depth + 1)


def _merge(source: Section, into: Section) -> None:
    for name, value in source.options.items():
        into.options.setdefault(name, value)
    for name, section in source.sections.items():
        _merge(section, into.sections.setdefault(name, Section()))


def _unquoted(word: str) -> str:
    return word[1:-1].replace('\\"', '"') if word.startswith('"') else word

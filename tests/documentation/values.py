"""What a key takes, and what it is without being given, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from swanroam.config import model
from swanroam.config.kinds import (
    AbsolutePath,
    Address,
    Choice,
    Duration,
    HostName,
    Integer,
    Kind,
    ListenAt,
    ListOf,
    Prefix,
    Text,
    WordOrDuration,
    WordOrList,
    render_duration,
)
from swanroam.config.meanings import MEANINGS, Meaning
from swanroam.config.schema import SCHEMA
from swanroam.config.section import Section

MODELS: dict[str, type] = {
    "": model.Config,
    "control": model.ControlSettings,
    "carrier": model.CarrierSettings,
    "addresses": model.AddressSettings,
    "sockets": model.SocketSettings,
    "timing": model.TimingSettings,
    "log": model.LogSettings,
    "metrics": model.MetricsSettings,
    "peers": model.PeerSettings,
}
"""Where the defaults of each section stand. The sections of the file, in the order of the reference."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the file."""

    section: str
    """The one that it stands in; empty at the top level."""
    name: str
    kind: Kind
    required: bool
    meaning: Meaning

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name


def section(name: str) -> Section:
    """The keys of a section, of an item for `peers`."""
    kind: object = SCHEMA if not name else SCHEMA.keys[name]
    found = kind.item if isinstance(kind, ListOf) else kind
    assert isinstance(found, Section), name
    return found


def keys(name: str) -> Iterator[Key]:
    """The keys of a section that have values of their own, in the order of the schema."""
    found = section(name)
    for key, kind in found.keys.items():
        if not isinstance(kind, Section) and not (isinstance(kind, ListOf) and isinstance(kind.item, Section)):
            path = f"{name}.{key}" if name else key
            yield Key(name, key, kind, key in found.required, MEANINGS[path])


def everything() -> Iterator[Key]:
    """All keys that have values of their own."""
    for name in MODELS:
        yield from keys(name)


def takes(kind: Kind) -> str:
    """Type, unit and range of a value. Raises TypeError for a kind that this does not know."""
    match kind:
        case Integer(lowest, highest):
            return f"whole number from {lowest} to {highest}, decimal or 0x…"
        case Duration(shortest, longest):
            return f"duration from {render_duration(shortest)} to {render_duration(longest)}"
        case WordOrDuration(word, duration):
            return f"{takes(duration)}, or `{word}`"
        case Choice(members):
            return "one of " + ", ".join(f"`{member.value}`" for member in members)
        case Text(expected):
            return f"text: {expected}"
        case AbsolutePath():
            return "absolute path"
        case Address(expected) | HostName(expected) | ListenAt(expected) | Prefix(expected):
            return expected
        case ListOf(item, _, may_be_empty):
            return f"list, each {takes(item)}" + ("" if may_be_empty else "; not empty")
        case WordOrList(word, items):
            return f"`{word}`, or a {takes(items)}"
    raise TypeError(f"{kind}: say here what it takes")


def default(key: Key) -> str:
    """What holds when the key is not given, as it would be written in the file, or in words. Empty: it is required."""
    if key.required:
        return ""
    if key.meaning.default:
        return key.meaning.default
    fields = {field.name: field for field in dataclasses.fields(MODELS[key.section])}
    return f"`{_written(key.kind, fields[key.name].default)}`"


def _written(kind: Kind, value: object) -> str:
    if isinstance(kind, WordOrDuration | WordOrList) and not value and value != 0:
        return kind.word
    if isinstance(kind, ListenAt) and value is None:
        return "none"
    match value:
        case bool():
            pass
        case float():
            return render_duration(value)
        case Enum():
            return str(value.value)
        case tuple():
            return "[" + ", ".join(_quoted(str(item)) for item in value) + "]"
        case int() if kind == SCHEMA.keys["control"].keys["mark"]:  # type: ignore[attr-defined]
            return f"{value:#x}"
        case int() | str() | Path() | model.IPv6Network():
            return str(value)
    raise TypeError(f"{value!r}: say here how it is written, or in the meaning what the default is")


def _quoted(item: str) -> str:
    """Quotes for what YAML would read as something else in a list."""
    return f'"{item}"' if item.startswith("*") or ":" in item else item

"""How single values are read: each kind takes a node and gives a value, or reports why not and gives `INVALID`.

A kind looks at the text as it was written and at whether it was quoted, never at what YAML 1.1 makes of it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Final, Protocol

import yaml

from swanroam.config.document import place_of
from swanroam.config.model import Endpoint
from swanroam.config.problems import Problems


class Invalid(Enum):
    """Type of the one value that stands for "there was a value, but not a usable one; it has been reported"."""

    INVALID = "invalid"


INVALID: Final = Invalid.INVALID


class Kind(Protocol):
    """Reader of one sort of value."""

    def read(self, node: yaml.Node, path: str, problems: Problems) -> object: ...


_NOT_TEXT = {
    "tag:yaml.org,2002:bool": "a yes/no value",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:null": "an empty value",
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:merge": "a merge key",
    "tag:yaml.org,2002:value": "a default value",
}


def describe(node: yaml.Node) -> str:
    """The node in a few words, for "is ..., but must be ..."."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return f"'{shorten(node.value)}'" if node.value else "empty"


def is_quoted(node: yaml.Node) -> bool:
    """Whether a scalar was written in quotes or as a block, so that YAML takes it for text whatever it says."""
    return isinstance(node, yaml.ScalarNode) and node.style is not None


def shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def scalar(node: yaml.Node, path: str, problems: Problems, expected: str) -> str | None:
    """The text of a scalar that has one; reports everything else."""
    if isinstance(node, yaml.ScalarNode):
        if node.value.strip():
            return str(node.value)
        problems.add(place_of(node), path, f"is empty; write {expected}")
    else:
        problems.add(place_of(node), path, f"is {describe(node)}; write {expected}")
    return None


@dataclass(frozen=True, slots=True)
class Text:
    """A string. Unquoted text that YAML 1.1 takes for something else is refused, because other tools that read
    the file would see something else."""

    expected: str
    pattern: str = r"[^\x00-\x1f\x7f]+"
    longest: int = 255

    def read(self, node: yaml.Node, path: str, problems: Problems) -> str | Invalid:
        text = scalar(node, path, problems, self.expected)
        if text is None:
            return INVALID
        if not is_quoted(node) and (meaning := _NOT_TEXT.get(node.tag)):
            problems.add(
                place_of(node), path, f'is {meaning} to YAML when unquoted, not a string; write "{shorten(text)}"'
            )
            return INVALID
        if len(text) > self.longest:
            problems.add(
                place_of(node), path, f"has {len(text)} characters, more than {self.longest}; write {self.expected}"
            )
            return INVALID
        if re.fullmatch(self.pattern, text) is None:
            problems.add(place_of(node), path, f"is '{shorten(text)}'; write {self.expected}")
            return INVALID
        return text


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number, decimal or 0x hexadecimal."""

    lowest: int
    highest: int

    def read(self, node: yaml.Node, path: str, problems: Problems) -> int | Invalid:
        expected = f"a whole number from {self.lowest} to {self.highest}"
        text = scalar(node, path, problems, expected)
        if text is None:
            return INVALID
        if is_quoted(node):
            problems.add(place_of(node), path, f"is quoted; write {expected} without quotes")
        elif re.fullmatch(r"0[0-9_]+", text):
            problems.add(
                place_of(node), path, f"is '{text}', which YAML reads as octal; write it without leading zeros"
            )
        elif re.fullmatch(r"[0-9]+(:[0-9]+)+", text):
            problems.add(place_of(node), path, f"is '{text}', which YAML reads in base 60; write {expected}")
        elif not re.fullmatch(r"-?[0-9]{1,20}|0[xX][0-9a-fA-F]{1,16}", text):
            problems.add(place_of(node), path, f"is '{shorten(text)}'; write {expected}")
        elif not self.lowest <= (value := int(text, 0)) <= self.highest:
            problems.add(place_of(node), path, f"is {text}, out of range; write {expected}")
        else:
            return value
        return INVALID


_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def render_duration(seconds: float) -> str:
    """Shortest way to write a duration in the file: 0.1 -> 100ms, 300 -> 5m."""
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit in ("h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:g}{unit}"
    return f"{seconds:g}s"


@dataclass(frozen=True, slots=True)
class Duration:
    """A time in seconds: 30, 30s, 500ms, 5m or 1h."""

    shortest: float
    longest: float

    def read(self, node: yaml.Node, path: str, problems: Problems) -> float | Invalid:
        expected = (
            f"a duration from {render_duration(self.shortest)} to {render_duration(self.longest)}, "
            "as 30, 30s, 500ms, 5m or 1h"
        )
        text = scalar(node, path, problems, expected)
        if text is None:
            return INVALID
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|m|h|)", text.strip())
        if match is None:
            problems.add(place_of(node), path, f"is '{shorten(text)}'; write {expected}")
            return INVALID
        # Division rather than multiplication for ms, so that 100ms is exactly 0.1
        number = float(match[1])
        seconds = number / 1000 if match[2] == "ms" else number * _UNITS[match[2]]
        if not self.shortest <= seconds <= self.longest:
            problems.add(place_of(node), path, f"is {text.strip()}, out of range; write {expected}")
            return INVALID
        return seconds


@dataclass(frozen=True, slots=True)
class WordOrDuration:
    """Either one fixed word, which reads as None, or a duration."""

    word: str
    duration: Duration

    def read(self, node: yaml.Node, path: str, problems: Problems) -> float | Invalid | None:
        if isinstance(node, yaml.ScalarNode) and node.value == self.word:
            return None
        own = Problems()
        value = self.duration.read(node, path, own)
        for problem in own.found:
            problems.add(problem.place, problem.path, f"{problem.message}, or '{self.word}'")
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One word of an enumeration."""

    members: type[Enum]

    def read(self, node: yaml.Node, path: str, problems: Problems) -> Enum | Invalid:
        words = [str(member.value) for member in self.members]
        expected = ", ".join(words[:-1]) + f" or {words[-1]}"
        text = scalar(node, path, problems, expected)
        if text is None:
            return INVALID
        if text in words:
            return self.members(text)
        problems.add(place_of(node), path, f"is '{shorten(text)}'; write {expected}{suggestion(text, words)}")
        return INVALID


def meanings(word: str, known: list[str]) -> list[str]:
    """The known words that were probably meant by `word`, nearest first."""
    word = word.lower().replace("-", "_")
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    # grace_period is far from grace by edit distance, and yet it is what was meant
    close += [other for other in known if len(other) > 3 and word.startswith(other)]
    return close


def suggestion(word: str, known: list[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no known word is near."""
    close = meanings(word, known)
    return f" (did you mean '{close[0]}'?)" if close else ""


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv6 address."""

    expected: str = "an IPv6 address such as fd53:7761:6e72::1"

    def read(self, node: yaml.Node, path: str, problems: Problems) -> object:
        text = scalar(node, path, problems, self.expected)
        if text is None:
            return INVALID
        try:
            address = ip_address(text)
        except ValueError:
            problems.add(place_of(node), path, f"is '{shorten(text)}', not an IP address; write {self.expected}")
            return INVALID
        if address.version != 6 or "%" in text:
            problems.add(place_of(node), path, f"is {shorten(text)}; write {self.expected}")
            return INVALID
        return address


@dataclass(frozen=True, slots=True)
class ListenAt:
    """A local address with a TCP port, or a port of 127.0.0.1; `none` is None."""

    expected: str = "an address and port such as 127.0.0.1:9510, a port of 127.0.0.1 alone, or none"

    def read(self, node: yaml.Node, path: str, problems: Problems) -> object:
        text = scalar(node, path, problems, self.expected)
        if text is None:
            return INVALID
        if text == "none":
            return None
        address, _, port = text.rpartition(":")
        if not is_quoted(node) and node.tag == "tag:yaml.org,2002:int" and address:
            problems.add(place_of(node), path, f"is '{text}', which YAML reads in base 60; write {self.expected}")
            return INVALID
        if address.startswith("[") and address.endswith("]"):
            address = address[1:-1]
        elif ":" in address:
            problems.add(place_of(node), path, f"is '{shorten(text)}'; write an IPv6 address in brackets: [::1]:9510")
            return INVALID
        if re.fullmatch(r"[1-9][0-9]{0,4}", port) and int(port) <= 65535 and "%" not in address:
            try:
                return Endpoint(ip_address(address or "127.0.0.1"), int(port))
            except ValueError:
                pass
        problems.add(place_of(node), path, f"is '{shorten(text)}'; write {self.expected}")
        return INVALID


_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
NAME = re.compile(rf"(?!.*(^|\.)[0-9]+\.?$)({_LABEL}\.)*{_LABEL}\.?")
"""A DNS name (RFC 1123 §2.1). One whose last label is a number would be read as an IPv4 address, `10.1` as 10.0.0.1."""


def host(text: str) -> IPv4Address | IPv6Address | str | None:
    """The address or DNS name of a host; None when it is neither."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return text if len(text) <= 253 and NAME.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class HostName:
    """The address or DNS name of a host that others can reach."""

    expected: str = "an address or a DNS name such as server.example.org"

    def read(self, node: yaml.Node, path: str, problems: Problems) -> object:
        text = Text(self.expected).read(node, path, problems)
        if isinstance(text, Invalid):
            return INVALID
        found = host(text)
        if found is None:
            problems.add(place_of(node), path, f"is '{shorten(text)}'; write {self.expected}")
            return INVALID
        return found


@dataclass(frozen=True, slots=True)
class Prefix:
    """An address prefix; a bare address counts as the prefix that holds only it."""

    expected: str = "a prefix such as 192.0.2.0/24 or 2001:db8::/32"
    only_version: int | None = None

    def read(self, node: yaml.Node, path: str, problems: Problems) -> object:
        text = scalar(node, path, problems, self.expected)
        if text is None:
            return INVALID
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            problems.add(place_of(node), path, f"is '{shorten(text)}', not an address prefix; write {self.expected}")
            return INVALID
        if self.only_version is not None and network.version != self.only_version:
            problems.add(place_of(node), path, f"is {text}, an IPv{network.version} prefix; write {self.expected}")
            return INVALID
        try:
            ip_network(text)
        except ValueError:
            problems.add(place_of(node), path, f"is {text}, which has bits set after the prefix; write {network}")
            return INVALID
        return network


@dataclass(frozen=True, slots=True)
class AbsolutePath:
    """A path in the file system. It need not exist yet."""

    def read(self, node: yaml.Node, path: str, problems: Problems) -> Path | Invalid:
        expected = "an absolute path"
        text = Text(expected, longest=4095).read(node, path, problems)
        if isinstance(text, Invalid):
            return INVALID
        if not text.startswith("/"):
            problems.add(place_of(node), path, f"is '{shorten(text)}'; write {expected}, beginning with '/'")
            return INVALID
        return Path(text)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list, all of one kind. Items that cannot be read are reported and left out, so that checks across items
    still see the others."""

    item: Kind
    example: str
    may_be_empty: bool = True

    def read(self, node: yaml.Node, path: str, problems: Problems) -> tuple[object, ...] | Invalid:
        if not isinstance(node, yaml.SequenceNode):
            alone = isinstance(node, yaml.ScalarNode) and node.value
            problems.add(
                place_of(node),
                path,
                f"is {describe(node)}, not a list; write {f'[{shorten(node.value)}]' if alone else self.example}",
            )
            return INVALID
        if not node.value and not self.may_be_empty:
            problems.add(place_of(node), path, f"is an empty list; write {self.example}")
            return INVALID
        items = (self.item.read(child, f"{path}[{index}]", problems) for index, child in enumerate(node.value))
        return tuple(item for item in items if item is not INVALID)


@dataclass(frozen=True, slots=True)
class WordOrList:
    """Either one fixed word, which reads as the empty list, or a list that is not empty."""

    word: str
    items: ListOf

    def read(self, node: yaml.Node, path: str, problems: Problems) -> tuple[object, ...] | Invalid:
        if isinstance(node, yaml.ScalarNode):
            if node.value == self.word:
                return ()
            problems.add(
                place_of(node), path, f"is {describe(node)}; write '{self.word}' or a list such as {self.items.example}"
            )
            return INVALID
        return self.items.read(node, path, problems)

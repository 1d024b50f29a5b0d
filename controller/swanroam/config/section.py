"""How a mapping is read: which keys it knows, which it needs, and what was probably meant by another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from swanroam.config.document import place_of
from swanroam.config.kinds import INVALID, Invalid, Kind, describe, meanings, shorten, suggestion
from swanroam.config.problems import Place, Problems


@dataclass(slots=True)
class Values:
    """What was read from one mapping: the usable values, and where each stands."""

    place: Place
    path: str
    values: dict[str, object] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def path_of(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def place_of(self, key: str) -> Place:
        """Where the key's value stands; where the mapping begins when the key is not given."""
        return self.places.get(key, self.place)

    def section(self, key: str) -> Values:
        """A nested mapping; empty when it is not given or could not be read."""
        value = self.values.get(key)
        return value if isinstance(value, Values) else Values(self.place_of(key), self.path_of(key))

    def sections(self, key: str) -> tuple[Values, ...]:
        """The readable mappings of a list of mappings."""
        value = self.values.get(key)
        return tuple(item for item in value if isinstance(item, Values)) if isinstance(value, tuple) else ()


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with known keys."""

    keys: Mapping[str, Kind]
    required: Mapping[str, str] = field(default_factory=dict)
    """Keys that must be there, with what to write."""
    homes: Mapping[str, str] = field(default_factory=dict)
    """For keys of other mappings: where they belong, to say so when one is met here."""

    def read(self, node: yaml.Node, path: str, problems: Problems) -> Values | Invalid:
        if not isinstance(node, yaml.MappingNode):
            remedy = f"write the keys under it ({', '.join(self.keys)})"
            if path and isinstance(node, yaml.ScalarNode) and not node.value:
                problems.add(place_of(node), path, f"is empty; {remedy}, or remove it")
            else:
                problems.add(place_of(node), path, f"is {describe(node)}, not a mapping; {remedy}")
            return INVALID
        result = Values(place_of(node), path)
        seen: dict[str, Place] = {}
        meant: set[str] = set()
        for key_node, value_node in node.value:
            key = self._key(key_node, result, problems)
            if key is None:
                continue
            if key in seen:
                problems.add(
                    place_of(key_node),
                    result.path_of(key),
                    f"is given twice, first on line {seen[key].line}; remove one of them",
                )
                continue
            seen[key] = place_of(key_node)
            if key not in self.keys:
                meant.update(meanings(key, list(self.keys)))
                problems.add(place_of(key_node), result.path_of(key), f"is not a known key{self._meant(key)}")
                continue
            value = self.keys[key].read(value_node, result.path_of(key), problems)
            if value is not INVALID:
                result.values[key] = value
            result.places[key] = place_of(value_node)
        for key, remedy in self.required.items():
            if key not in seen and key not in meant:
                problems.add(result.place, result.path_of(key), f"is missing; write {remedy}")
        return result

    def _key(self, node: yaml.Node, result: Values, problems: Problems) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            problems.add(
                place_of(node), result.path, f"has {describe(node)} as a key; write one of {', '.join(self.keys)}"
            )
            return None
        if node.tag == "tag:yaml.org,2002:merge":
            problems.add(
                place_of(node), result.path, "merge keys (<<) are not supported; use 'defaults' for what peers share"
            )
            return None
        return shorten(str(node.value))

    def _meant(self, key: str) -> str:
        known = f"; keys here are {', '.join(self.keys)}"
        if near := suggestion(key, list(self.keys)):
            return known + near
        if home := self.homes.get(key):
            return f"; it belongs {home}"
        return known

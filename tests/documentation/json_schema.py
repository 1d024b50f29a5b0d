"""docs/schemas/swanroam.schema.json, for editors: what a schema can say of the rules that the controller applies.

Draft 7, the one that the YAML language server takes (https://github.com/redhat-developer/yaml-language-server). It must
refuse nothing that the controller takes. What it cannot say, `swanroam check-config` does: what stands in two
places (identities that differ, a time that leaves room for another), keys given twice, a number as it was written.
"""

from __future__ import annotations

import json
from typing import Any

from documentation.numbers import whole_numbers
from documentation.values import MODELS, default, keys
from swanroam.config.checks import IKE_PORTS, RESERVED_TABLES
from swanroam.config.kinds import (
    NAME,
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
from swanroam.config.meanings import MEANINGS
from swanroam.config.model import DEFAULT_CHILD
from swanroam.config.schema import SCHEMA
from swanroam.config.section import Section
from swanroam.inner_address import LONGEST_PREFIX, SHORTEST_PREFIX

Schema = dict[str, Any]  # JSON: whatever the keyword takes

_OCTET = f"({whole_numbers(0, 255)})"
_IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
_IPV6 = r"[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,7}(:[0-9]{1,3}(\.[0-9]{1,3}){3})?"
"""Roughly: the form of an address. Its format, which most programs look at as well, says the rest."""
_NOWHERE = {
    "127": r"127\.",
    "IPv4 multicast": rf"(22[4-9]|23[0-9])\.[0-9.]+(/({whole_numbers(4, 32)}))?$",
    "::1": r"::1(/128)?$",
    "IPv6 link-local": rf"[fF][eE][89abAB][0-9a-fA-F]:[^/]*(/({whole_numbers(10, 128)}))?$",
    "IPv6 multicast": r"[fF][fF][0-9a-fA-F]{2}:",
}
"""Addresses, and prefixes that have no others, at which no peer can be reached."""
_PLACES = f"^({'|'.join(_NOWHERE.values())})"
_UNUSABLE_PREFIX = r"^(::|0{0,2}[0-9a-fA-F]{1,2}:|[fF][eE][89abAB][0-9a-fA-F]:|[fF][fF][0-9a-fA-F]{2}:)"
_HAS_WORDS = r"(?=.*\S)"


def render() -> str:
    """The file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def schema() -> Schema:
    """The whole schema."""
    whole = _section(SCHEMA, "")
    _narrow(whole)
    stays = {"anyOf": [{"required": ["moves"]}, _each("fallback", {"maxItems": 0})]}
    own_child = _each("children", {"not": {"contains": {"const": DEFAULT_CHILD}}})
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "swanroam.yaml",
        "description": "Configuration of swanroam. `swanroam check-config` checks what no schema can.",
        **whole,
        "allOf": [
            {"if": _given("defaults", _given("moves", {"const": "peer"})), "then": _each("peers", {"items": stays})},
            {"if": {"not": _given("control", _given("child", {}))}, "then": _each("peers", {"items": own_child})},
        ],
    }


def _narrow(whole: Schema) -> None:
    """What `checks.py` adds to the kinds, as far as it is about one value."""
    sections = whole["properties"]
    peer = sections["peers"]["items"]
    control, carrier = sections["control"]["properties"], sections["carrier"]["properties"]
    addresses, sockets = sections["addresses"]["properties"], sections["sockets"]["properties"]
    control["port"]["not"] = {"enum": list(IKE_PORTS)}
    control["prefix"] |= {
        "pattern": f"^{_IPV6}/({whole_numbers(SHORTEST_PREFIX, LONGEST_PREFIX)})$",
        "not": {"pattern": _UNUSABLE_PREFIX},
    }
    carrier["table"]["not"] = {"enum": sorted({number - back for number in RESERVED_TABLES for back in range(3)})}
    addresses["interfaces"] |= {"uniqueItems": True, "not": {"contains": {"const": "lo"}}}
    addresses["prefer"]["anyOf"][1]["uniqueItems"] = True
    sockets["exclude_processes"]["uniqueItems"] = True
    for keys_of_peers in (peer["properties"], sections["defaults"]["properties"]):
        keys_of_peers["allow"]["items"]["not"] = {"pattern": _PLACES}
    peer["properties"]["children"]["uniqueItems"] = True
    peer["properties"]["fallback"]["uniqueItems"] = True
    peer["properties"]["fallback"]["items"]["not"] = {"pattern": rf"{_PLACES}|^(0\.0\.0\.0|::)$"}
    peer["not"] = {
        "required": ["moves", "fallback"],
        "properties": {"moves": {"const": "peer"}, "fallback": {"minItems": 1}},
    }


def _given(key: str, value: Schema) -> Schema:
    return {"required": [key], "properties": {key: value}}


def _each(key: str, value: Schema) -> Schema:
    return {"properties": {key: value}}


def _section(section: Section, name: str) -> Schema:
    documented = {key.name: key for key in keys("peers" if name == "defaults" else name)}
    properties: Schema = {}
    for key, kind in section.keys.items():
        if key in documented:
            entry = documented[key]
            value = {"description": _described(entry.meaning.text, entry.meaning.words), **_kind(kind)}
            if written := default(entry):
                value["description"] += f"\n\nDefault: {written}"
        elif isinstance(kind, ListOf) and isinstance(kind.item, Section):
            assert key in MODELS, key
            items = _section(kind.item, key)
            value = {"description": MEANINGS[key].text, "type": "array", "minItems": 1, "items": items}
        else:
            assert isinstance(kind, Section), key
            value = {"description": MEANINGS[key].text, **_section(kind, key)}
        properties[key] = value
    made: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if section.required:
        made["required"] = list(section.required)
    return made


def _described(text: str, words: Any) -> str:
    return "\n".join([text, *(f"- `{word}`: {meaning}" for word, meaning in words.items())])


def _kind(kind: Kind) -> Schema:
    match kind:
        case Integer(lowest, highest):
            return {"type": "integer", "minimum": lowest, "maximum": highest}
        case Duration():
            return _duration(kind)
        case WordOrDuration(word, duration):
            return {"anyOf": [{"const": word}, _duration(duration)]}
        case Choice(members):
            return {"enum": [member.value for member in members]}
        case Text(expected, pattern, longest):
            # \w stands for the letters of all languages in the controller, for ASCII only in JavaScript
            form = f"^{_HAS_WORDS}({pattern})$".replace(r"[\w", r"[A-Za-z0-9_\u0080-\uffff")
            return _string(form, expected, longest)
        case AbsolutePath():
            return _string(r"^/[^\x00-\x1f\x7f]*$", "an absolute path, beginning with '/'", 4095)
        case Address(expected):
            return {**_string(f"^{_IPV6}$", expected), "format": "ipv6"}
        case HostName(expected):
            return {
                "type": "string",
                "anyOf": [
                    {"pattern": f"^{_IPV4}$"},
                    {"pattern": f"^{_IPV6}$", "format": "ipv6"},
                    {"pattern": f"^{NAME.pattern}$", "maxLength": 253},
                ],
                "errorMessage": f"write {expected}",
            }
        case ListenAt(expected):
            port = whole_numbers(1, 65535)
            return {
                "anyOf": [
                    {"type": "integer", "minimum": 1, "maximum": 65535},
                    {"type": "string", "pattern": rf"^(none|(({_IPV4}|\[{_IPV6}\]):)?({port}))$"},
                ],
                "errorMessage": f"write {expected}",
            }
        case Prefix(expected, only_version):
            ipv4 = rf"{_IPV4}(/({whole_numbers(0, 32)}))?"
            ipv6 = rf"{_IPV6}(/({whole_numbers(0, 128)}))?"
            return _string(f"^{ipv6}$" if only_version == 6 else f"^({ipv4}|{ipv6})$", expected)
        case ListOf(item, _, may_be_empty):
            return {"type": "array", "items": _kind(item), **({} if may_be_empty else {"minItems": 1})}
        case WordOrList(word, items):
            return {"anyOf": [{"const": word}, _kind(items)]}
    raise TypeError(f"{kind}: say here what its schema is")


def _string(pattern: str, expected: str, longest: int | None = None) -> Schema:
    made: Schema = {"type": "string", "pattern": pattern, "patternErrorMessage": f"write {expected}"}
    if longest is not None:
        made["maxLength"] = longest
    return made


def _duration(kind: Duration) -> Schema:
    """Numbers are compared; of text only whole numbers are, and fractions by what stands before the point."""
    forms = []
    for unit, seconds in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        least, most = kind.shortest / seconds, kind.longest / seconds
        whole = f"{whole_numbers(-int(-least // 1), int(most))}" if most >= 1 and -(-least // 1) <= most else ""
        fractions = rf"({whole_numbers(int(least), int(most))})\.[0-9]{{1,9}}"
        forms.append(f"({whole}|{fractions}) ?{unit}" if whole else f"{fractions} ?{unit}")
    expected = (
        f"a duration from {render_duration(kind.shortest)} to {render_duration(kind.longest)}, "
        "as 30, 30s, 500ms, 5m or 1h"
    )
    return {
        "anyOf": [
            {"type": "number", "minimum": kind.shortest, "maximum": kind.longest},
            _string(f"^({'|'.join(forms)})$", expected),
        ]
    }

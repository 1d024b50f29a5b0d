"""JSON Schemas of the documents that `--json` prints, made of the types that the code is checked against.

A TypedDict becomes an object with all keys required; in an annotation a text is the description, and an enumeration
lists the words that a text, or the keys of a mapping, can have. Source: JSON Schema 2020-12.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from swanroam.daemon.status_document import StatusDocument
from swanroam.history.document import HistoryDocument

ROOT = Path(__file__).resolve().parents[2]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def schema_of(document: type) -> dict[str, Any]:
    """The schema of a whole document."""
    definitions: dict[str, Any] = {}
    root = _object(document, definitions)
    return {"$schema": DIALECT, "title": document.__name__, **root, "$defs": dict(sorted(definitions.items()))}


def render(document: type) -> str:
    """The text of the file."""
    return json.dumps(schema_of(document), indent=2) + "\n"


def closed(schema: Any) -> Any:
    """The same without room for keys that it does not know: for tests of what is printed."""
    if isinstance(schema, dict):
        closing = {"additionalProperties": False} if "properties" in schema else {}
        return {key: closed(value) for key, value in schema.items()} | closing
    return [closed(value) for value in schema] if isinstance(schema, list) else schema


def _object(document: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(document, include_extras=True)
    return {
        "description": document.__doc__,
        "type": "object",
        "properties": {name: _kind(hint, definitions) for name, hint in hints.items()},
        "required": list(hints),
    }


def _kind(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if get_origin(hint) is Annotated:
        return _annotated(hint, definitions)
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if is_typeddict(hint):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}  # it may refer to itself
            definitions[hint.__name__] = _object(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list:
        return {"type": "array", "items": _kind(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _kind(arguments[1], definitions)}
    if origin is Literal:
        return {"const": arguments[0]}
    if origin is UnionType:
        return {"anyOf": [_kind(argument, definitions) for argument in arguments]}
    raise TypeError(f"no schema for {hint}")


def _annotated(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    kind, *notes = get_args(hint)
    made = _kind(kind, definitions)
    for note in notes:
        if isinstance(note, str):
            made = {"description": note, **made}
        elif issubclass(note, Enum):
            words = {"enum": [member.value for member in note]}
            made |= words if made["type"] == "string" else {"propertyNames": words}
    return made


PAGES: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "schemas" / "status.schema.json": lambda: render(StatusDocument),
    ROOT / "docs" / "schemas" / "history.schema.json": lambda: render(HistoryDocument),
}
"""Each file with what makes its text."""

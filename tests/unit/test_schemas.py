"""The published schemas are schemas; that they are those of the code is in test_configuration_reference.py."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from schemas import PAGES, schema_of
from swanroam.daemon.status_document import StatusDocument
from swanroam.protocol.handover import Result, Step


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_published_schema_is_a_schema(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


def test_words_and_mappings_are_limited_to_what_the_code_can_say() -> None:
    handover = schema_of(StatusDocument)["$defs"]["HandoverDocument"]["properties"]

    assert handover["result"]["enum"] == [result.value for result in Result]
    assert handover["seconds"]["propertyNames"]["enum"] == [step.value for step in Step]


def test_a_later_version_of_the_same_document_may_have_more_keys_and_not_fewer() -> None:
    schema = schema_of(StatusDocument)
    validator = jsonschema.Draft202012Validator({**schema, "properties": {}})
    document = dict.fromkeys(schema["required"], None) | {"new": 1}

    assert validator.is_valid(document)
    del document["peers"]
    assert not validator.is_valid(document)
    assert not jsonschema.Draft202012Validator(schema["properties"]["version"]).is_valid(2)

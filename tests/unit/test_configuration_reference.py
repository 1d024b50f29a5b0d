"""The reference of the configuration, and the schema that editors use, say what the program does."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator, FormatChecker

from documentation import json_schema
from documentation.numbers import whole_numbers
from documentation.pages import PAGES, ROOT
from documentation.values import Key, everything, section
from swanroam.config import ConfigError, load_config, parse_config
from swanroam.config.kinds import Choice, Duration, Integer, Kind, WordOrDuration
from swanroam.config.meanings import MEANINGS
from unit import test_config_errors as errors

KEYS = {key.path: key for key in everything()}
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))
HINT = "# yaml-language-server: $schema=../schemas/swanroam.schema.json\n"

LEFT_TO_THE_PROGRAM = {
    "which YAML reads as octal": "YAML gives a number",
    "which YAML reads in base 60": "YAML gives a number",
    "is '1_000'": "YAML gives a number",
    "is given twice": "YAML gives one of them",
    "has bits set after the prefix": "arithmetic",
    "outside control.prefix": "two values",
    "leaves no time for a retransmission": "two values",
    "as on line": "two peers",
    "this host's own identity": "two values",
    "the identity of the peer on line": "two peers",
    "which the peer on line": "two peers",
    "is not supported": "YAML replaces it",
    "is this the right file": "a size",
}
"""Part of a message, and why a schema cannot say it."""


@functools.cache
def validator() -> Draft7Validator:
    return Draft7Validator(json_schema.schema(), format_checker=FormatChecker())


def accepted(text: str) -> bool:
    """An editor has nothing to say about the file."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return False
    return bool(validator().is_valid(value))


def file_with(key: Key, value: str) -> str:
    """A file that has the key with this value, and little else."""
    peer = {"identity": "server.example.org", "connection": "server"}
    top = {"identity": "here.example.org"}
    given = {key.name: value}
    match key.section:
        case "":
            top |= given
        case "peers":
            peer |= given
        case name:
            top[name] = f"\n  {key.name}: {value}"
    items = "\n    ".join(f"{name}: {text}" for name, text in peer.items())
    return "".join(f"{name}: {text}\n" for name, text in top.items()) + f"peers:\n  - {items}\n"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_is_made_of_the_code_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == PAGES[path](), "make docs"


def test_every_key_has_a_meaning_and_every_meaning_a_key() -> None:
    sections = {path.split(".")[0] for path in KEYS if "." in path}
    assert set(MEANINGS) == {*KEYS, *sections, "defaults"}
    assert set(section("defaults").keys) < set(section("peers").keys), "explained there"


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_every_word_of_a_choice_has_a_meaning_and_nothing_else_has(key: Key) -> None:
    words = [member.value for member in key.kind.members] if isinstance(key.kind, Choice) else []
    assert list(key.meaning.words) == words


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_the_example_of_a_key_is_taken_by_program_and_schema(key: Key) -> None:
    text = file_with(key, key.meaning.example)
    assert parse_config(text)
    assert accepted(text)


def bounds(kind: Kind) -> tuple[list[str], list[str]]:
    """Values at the ends of a range, as one may write them, and values just outside."""
    match kind:
        case WordOrDuration(_, duration):
            return bounds(duration)
        case Integer(lowest, highest):
            return [str(lowest), hex(highest)], [str(lowest - 1), str(highest + 1)]
        case Duration(shortest, longest):
            most = int(longest)
            inside = [f"{shortest * 1000:g}ms", f"{shortest:g}", f"{most}s", f"{most}.0", f"{most} s"]
            inside += [f"{most // 60}m"] if most >= 60 else []
            inside += [f"{most // 3600}h"] if most >= 3600 else []
            outside = [f"{most + 1}s", f"{most + 1}", f"{most // 3600 + 1}h", f"{most // 60 + 1}m", f"{most}001ms"]
            return inside, outside
    return [], []


@pytest.mark.parametrize(
    "key", [key for key in KEYS.values() if bounds(key.kind) != ([], [])], ids=lambda key: key.path
)
def test_program_and_schema_agree_on_where_a_range_ends(key: Key) -> None:
    inside, outside = bounds(key.kind)
    other = {"timing.first_retransmit": "\n  give_up: 10m", "timing.give_up": "\n  first_retransmit: 10ms"}
    for value in inside:
        text = file_with(key, value + other.get(key.path, ""))
        assert parse_config(text), value
        assert accepted(text), value
    for value in outside:
        text = file_with(key, value)
        with pytest.raises(ConfigError):
            parse_config(text)
        assert not accepted(text), value


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_name_the_schema_and_follow_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(HINT)
    assert (path.parent / HINT.partition("=")[2].strip()).is_file()
    assert load_config(path)
    assert accepted(text)


def test_settings_that_the_example_shows_in_comments_are_the_defaults() -> None:
    """From `addresses` on: all of them at once, without the `# ` in front, make a file with the same meaning."""
    text = (ROOT / "docs" / "examples" / "mobile.yaml").read_text(encoding="utf-8")
    lines = [line.removeprefix("# ") for line in text[text.index("# addresses:") :].splitlines()]
    shown = [line for line in lines if re.match(r" *[a-z_]+:( |$)", line)]
    assert {line.partition(":")[0] for line in shown} > {"addresses", "sockets", "timing", "log", "control", "carrier"}
    least = "identity: a\npeers: [{identity: b, connection: b}]\n"
    assert parse_config(least + "\n".join(shown)) == parse_config(least)


def wrong_files() -> list[tuple[str, str]]:
    """Every file of test_config_errors with one mistake, and what is said about it."""

    def cases(test: object) -> list[tuple[str, str]]:
        (mark,) = test.pytestmark  # type: ignore[attr-defined]
        return list(mark.args[1])

    lines = [
        *cases(errors.test_one_wrong_line_gives_one_problem),
        *cases(errors.test_one_wrong_line_of_a_peer_gives_one_problem),
    ]
    return [(errors.MINIMAL + added + "\n", said) for added, said in lines] + cases(
        errors.test_file_that_is_no_configuration_at_all
    )


def test_the_schema_refuses_what_the_program_refuses_where_a_schema_can() -> None:
    found = wrong_files()
    assert len(found) > 90
    left = {reason: [said for _, said in found if reason in said] for reason in LEFT_TO_THE_PROGRAM}
    assert all(left.values()), "a reason that no longer stands in any message"
    for text, said in found:
        if not any(reason in said for reason in LEFT_TO_THE_PROGRAM):
            assert not accepted(text), said


def test_what_is_left_to_the_program_is_what_a_schema_cannot_say() -> None:
    """None of the reasons is too wide: for each there is a file that the schema takes."""
    found = wrong_files()
    never_a_mapping = {"is not supported", "is this the right file"}
    for reason in LEFT_TO_THE_PROGRAM.keys() - never_a_mapping:
        assert any(accepted(text) for text, said in found if reason in said), reason


@pytest.mark.parametrize(("lowest", "highest"), [(0, 0), (0, 255), (8, 64), (5, 3600), (10, 128), (99, 101), (7, 1000)])
def test_the_expression_for_a_range_matches_the_range(lowest: int, highest: int) -> None:
    form = re.compile(whole_numbers(lowest, highest))
    matched = [number for number in range(highest + 1200) if form.fullmatch(str(number))]
    assert matched == list(range(lowest, highest + 1))

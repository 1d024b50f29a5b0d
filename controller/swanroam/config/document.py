"""YAML text to a tree of nodes that know their places. Values are not interpreted here.

YAML 1.1 turns `no` into false, `22:22` into 1342 and `0123` into 83, and lets the second of two equal keys win
(https://yaml.org/type/). So no value is ever taken from PyYAML's constructor: the tree keeps the text that was
written, and the kind that a key expects reads it. What would make one place mean another is refused: anchors and
aliases, merge keys, tags, a second document.
"""

from __future__ import annotations

import yaml

from swanroam.config.problems import WHOLE_FILE, Place, Problems

MAXIMUM_CHARACTERS = 1_000_000
"""A configuration of 1000 peers has about 100 000."""


class _Refused(yaml.MarkedYAMLError):
    """YAML that is well formed but has no place in this file."""


class LocatingLoader(yaml.SafeLoader):
    """SafeLoader that composes nodes and refuses whatever is not plain data."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event, f"the alias *{event.anchor} is not supported; write the value out, or use 'defaults'")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise _refused(
                event, f"the anchor &{event.anchor} is not supported; remove it, or use 'defaults' for what peers share"
            )
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag not in (None, "!"):
            raise _refused(event, f"the tag {_short_tag(str(event.tag))} is not supported; remove it")
        return super().compose_node(parent, index)  # type: ignore[arg-type]


def _refused(event: yaml.Event, message: str) -> _Refused:
    return _Refused(None, None, message, event.start_mark)  # type: ignore[arg-type]


def _short_tag(tag: str) -> str:
    standard = "tag:yaml.org,2002:"
    return "!!" + tag.removeprefix(standard) if tag.startswith(standard) else tag


def place_of(node: yaml.Node) -> Place:
    """Where the node begins."""
    return _place(node.start_mark)


def _place(mark: yaml.Mark | None) -> Place:
    return WHOLE_FILE if mark is None else Place(mark.line + 1, mark.column + 1)


def compose(text: str, problems: Problems) -> yaml.Node | None:
    """The root node of the one document in `text`; None, with a problem reported, when there is none."""
    if len(text) > MAXIMUM_CHARACTERS:
        problems.add(
            WHOLE_FILE, "", f"has {len(text)} characters, more than {MAXIMUM_CHARACTERS}; is this the right file?"
        )
        return None
    # Before PyYAML sees them: it reports control characters without a line.
    for number, line in enumerate(text.split("\n"), start=1):
        for column, character in enumerate(line, start=1):
            if character < " " and character not in "\t\r":
                problems.add(
                    Place(number, column), "", f"control character U+{ord(character):04X}; this is not a text file"
                )
                return None
    try:
        loader = LocatingLoader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        problems.add(_place(error.problem_mark or error.context_mark), "", _explain(error))
        return None
    except yaml.YAMLError as error:
        problems.add(WHOLE_FILE, "", f"is not YAML: {error}; write it as UTF-8 text")
        return None
    except RecursionError:
        problems.add(WHOLE_FILE, "", "is nested too deeply; the deepest setting has four levels")
        return None
    if root is None:
        problems.add(WHOLE_FILE, "", "is empty; it needs at least 'identity' and 'peers'")
    return root


def _explain(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's message in words that say what to write instead."""
    problem = error.problem or "is not valid YAML"
    if isinstance(error, _Refused):
        return problem
    if "'\\t'" in problem:
        return "tab in the indentation; YAML allows only spaces there"
    if "cannot start any token" in problem:
        character = problem.split("character ", 1)[-1].split(" that", 1)[0].strip("'")
        return f'a value cannot begin with {character} unless it is quoted; write "{character}..."'
    if "mapping values are not allowed here" in problem:
        return (
            "a second ': ' on one line, or wrong indentation; "
            "quote a value that contains ': ', or put the key on its own line"
        )
    if "could not find expected ':'" in problem:
        return "a key without ':'; write 'key: value'"
    if "but found another document" in problem:
        return "a second document begins here; keep everything in one, without '---' in between"
    context = f" {error.context}" if error.context else ""
    return f"not valid YAML: {problem}{context}; check indentation, brackets and quotes above this place"

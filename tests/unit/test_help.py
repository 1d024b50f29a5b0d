"""What `--help` says, and the manual page made of it: complete, and told in one way by all commands."""

from __future__ import annotations

import argparse

import pytest

from swanroam.cli.main import _parser


def commands() -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Every command, with its line in the list of commands and its parser."""
    (listed,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    lines = {choice.dest: choice.help or "" for choice in listed._choices_actions}
    return {name: (lines[name], parser) for name, parser in listed.choices.items()}


COMMANDS = commands()
ARGUMENTS = {
    f"{name} {action.option_strings[-1] if action.option_strings else action.dest}": action
    for name, (_, parser) in COMMANDS.items()
    for action in parser._actions
    if not isinstance(action, argparse._HelpAction)
}


def is_phrase(text: str) -> bool:
    """Begins with a small letter or a name, has no full stop at its end, and says more than one word."""
    return len(text.split()) > 1 and not text.endswith(".") and not text[:2].istitle()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_line_in_the_list_and_a_description_in_sentences(name: str) -> None:
    line, parser = COMMANDS[name]
    assert is_phrase(line)
    assert parser.description is not None
    sentences = parser.description.strip()
    assert sentences.endswith(".")
    assert not is_phrase(sentences)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_is_explained_with_its_default(name: str) -> None:
    action = ARGUMENTS[name]
    assert action.help
    assert is_phrase(action.help)
    if action.option_strings and action.nargs != 0:
        assert isinstance(action.metavar, str)
        assert action.metavar.isupper()
        if action.default is not None:
            default = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
            assert f"default: {default}" in action.help


def test_the_program_itself_is_described() -> None:
    assert (_parser().description or "").strip().endswith(".")
    assert {"run", "status", "move", "sockets", "check-config", "cleanup"} <= COMMANDS.keys()

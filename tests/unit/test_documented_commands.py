"""Every command that a document shows is one that its program takes. Those of the README are run by a scenario, too."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from documentation.commands import PROGRAMS, Command, blocks, commands, inline, split
from documentation.pages import ROOT
from swanroam.cli.main import _parser

DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
COMMANDS = {str(command): command for path in DOCUMENTS for command in commands(path)}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

STAND_INS = {"ADDRESS": "192.0.2.7", "SECONDS": "5", "HANDOVER": "a0a1a2a3a4a5a6a7", "INTERFACE": "eth0"}
"""What is put in for words in capitals that are not any text."""
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
WITH_VERBS = {"systemctl": 1, "docker": 1}
"""Programs whose help names what their first argument may be."""
HELP = {"ip": "-help", "tc": "-help", "tcpdump": "--help", "ping": "-h", "nstat": "-h", "curl": "--help all"}
UNCHECKED = frozenset(
    [
        "ansible-galaxy",
        "ansible-playbook",
        "ansible-vault",
        "apt",
        "apt-get",
        "cd",
        "dpkg",
        "modprobe",
        "python3",
        "ssh",
    ]
)
"""What they take is not told by a short help, or is all there is to tell."""


@functools.cache
def told(*words: str) -> str:
    """What a program says of itself. Skips the test where it is not installed."""
    program = shutil.which(words[0], path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False, timeout=20)
    return done.stdout + done.stderr


def has_option(text: str, option: str) -> bool:
    """Whether a help names it; of letters behind one hyphen, each."""
    if option.startswith("--"):
        return re.search(rf"{re.escape(option.partition('=')[0])}(?![\w-])", text) is not None
    if re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text):
        return True
    letters = {letter for found in re.findall(r"(?<![\w-])-(\w+)", text) for letter in found}
    return set(option[1:].rstrip("0123456789")) <= letters


def check(command: Command) -> None:
    """Fails for a command that its program would not take."""
    words = command.words
    program = Path(words[0]).name
    match program:
        case "swanroam":
            parse(command)
        case "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in targets)
        case "swanctl":
            text = told("swanctl", words[1], "--help")
            assert re.search(rf"swanctl {words[1]}(?![\w-])", text)
            assert all(has_option(text, word) for word in words[2:] if word.startswith("-"))
        case "ip" | "tc":
            of_iproute2(words)
        case "docker" if words[1] == "compose":
            of_compose(words[2:])
        case "pip":
            assert words[1] in ("install", "uninstall", "wheel")
        case _ if program in UNCHECKED:
            pass
        case _:
            text = told(program, *HELP.get(program, "--help").split())
            assert all(has_option(text, word) for word in words[1:] if re.match(r"-{1,2}\w", word))
            if program in WITH_VERBS:
                verb = next(word for word in words[1:] if not word.startswith("-"))
                assert re.search(rf"^\s+{verb}\b", text, re.MULTILINE)
    if program in ("cp", "ln") and not words[-2].startswith("/"):
        assert (ROOT / words[-2]).exists(), words[-2]


def parse(command: Command) -> None:
    """By the real parser, with all that may be left out, and without it; of a mere name, that it is one."""
    for text in (re.sub(r"\[[^\]]*\]", "", command.text), re.sub(r"[\[\]]", "", command.text)):
        arguments = next(words for words in split(text) if Path(words[0]).name == "swanroam")[1:]
        filled = [STAND_INS.get(word, word) for word in arguments]
        filled += ["--help"] if len(command.words) == 2 else []
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            taken = is_taken(filled)
        assert taken, said.getvalue()


def is_taken(arguments: list[str]) -> bool:
    try:
        _parser().parse_args(arguments)
    except SystemExit as ended:
        return not ended.code
    return True


def of_compose(words: tuple[str, ...]) -> None:
    """Not every Docker client has the plugin; the services are those of the demo."""
    options = re.compile(r"-f|--file|\S+\.yaml|-\w|--build|--volumes|-v")
    verb, *rest = [word for word in words if not options.fullmatch(word)]
    assert verb in ("build", "down", "exec", "logs", "ps", "up")
    assert not rest or rest[0] in COMPOSE["services"], rest[0]
    if verb == "exec" and rest[1] == "swanroam":
        assert is_taken([*rest[2:], *(["--help"] if len(rest) == 2 else [])])


def of_iproute2(words: tuple[str, ...]) -> None:
    program, *rest = words
    general = told(program, "-help")
    while rest[0].startswith("-"):
        option = rest.pop(0)
        assert re.search(rf"(?<!\w){option}(\[|\b)", general), option
    objects = rest[:2] if rest[0] == "xfrm" else rest[:1]
    verbs = rest[len(objects) :]
    text = told(program, *objects, "help")
    assert "Usage" in text
    if verbs:
        verb = "(show|list)" if verbs[0] in ("show", "list") else verbs[0]
        assert re.search(rf"(?<!\w){verb}(?!\w)", text), verbs[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_documented_command_is_one_that_its_program_takes(name: str) -> None:
    check(COMMANDS[name])


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 70
    assert {"README.md", "operations.md", "configuration.md"} <= {command.document for command in COMMANDS.values()}


def test_no_command_is_passed_over_because_its_program_is_not_known() -> None:
    """What looks like a command, by an option, begins with a program that is looked for."""
    for path in DOCUMENTS:
        for code in re.findall(r"`([a-z][\w.-]+ [^`\n]*)`", path.read_text(encoding="utf-8")):
            if re.search(r" --?[a-z]", code):
                assert code.split()[0] in PROGRAMS, f"{path.name}: {code}"


@pytest.mark.parametrize(
    "text",
    [
        "swanroam stat",
        "swanroam status --jsn",
        "swanroam move --no-wait",
        "swanroam move ADDRESS --timeout soon",
        "make everything",
        "swanctl --load-everything",
        "swanctl --initiate --kid NAME",
        "ip adr show",
        "ip route shwo",
        "ip --frobnicate route",
        "systemctl begin swanroam",
        "ss --frobnicate",
        "cp systemd/swanroam.servic /etc/systemd/system/",
    ],
)
def test_a_wrong_command_is_noticed(text: str) -> None:
    (words,) = split(text)
    with pytest.raises(AssertionError):
        check(Command("a document", text, words))


def test_blocks_and_sentences_are_told_apart() -> None:
    text = (
        "Do this:\n\n    mkdir -p /etc/x    # a comment\n    ip rule && \\\n        ip -6 rule\n\nor `ss -K dst OLD`, "
        "`ip`, `rm = 1` and `connections { }`:\n\n    connections {\n    }\n\n```yaml\nip: a b\n```\n\n"
        "```sh\nmake x\n```\n"
    )
    assert list(blocks(text)) == ["mkdir -p /etc/x\nip rule &&          ip -6 rule", "make x"]
    assert list(inline(text)) == ["ss -K dst OLD"]
    assert [words for line in ["a b | c && d 'e f'; g"] for words in split(line)] == [
        ("a", "b"), ("c",), ("d", "e f"), ("g",),
    ]  # fmt: skip

"""Makes what the package has from the code and the documents: manual pages and shell completions.

`python documents.py DIRECTORY` writes swanroam.8, swanroam.yaml.5 and swanroam.bash, .zsh, .fish. It needs swanroam and
shtab on its path.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab

from swanroam import __version__
from swanroam.cli.main import _parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

INTERFACES = {
    "bash": "_swanroam_interfaces",
    "zsh": "{_values interface ${$(print -l /sys/class/net/*(:t))}}",
    "fish": "(ls /sys/class/net)",
}
PREAMBLE = {"bash": '_swanroam_interfaces() { compgen -W "$(ls /sys/class/net)" -- "$1"; }'}


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "swanroam.8").write_text(commands_page(), encoding="utf-8")
    (directory / "swanroam.yaml.5").write_text(configuration_page(), encoding="utf-8")
    for shell in ("bash", "zsh", "fish"):
        (directory / f"swanroam.{shell}").write_text(completion(shell), encoding="utf-8")


# --- shell completions ------------------------------------------------------------------------------------------------


def completion(shell: str) -> str:
    """Completions of all commands and options, of files where one is wanted, and of interfaces."""
    whole = _parser()
    for command in (whole, *subparsers(whole).values()):
        for action in command._actions:
            if action.metavar == "FILE":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.dest == "interface":
                action.complete = INTERFACES  # type: ignore[attr-defined]
    return str(shtab.complete(whole, shell=shell, preamble=PREAMBLE))


def subparsers(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands, in the order in which `--help` has them."""
    (action,) = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


# --- manual pages -----------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """swanroam(8)."""
    whole = _parser()
    lines = [
        *head("SWANROAM", 8, "swanroam", whole.description or ""),
        ".SH SYNOPSIS",
        ".B swanroam",
        r"\fICOMMAND\fR [\fIOPTION\fR]...",
        ".SH DESCRIPTION",
        *prose(README.split("\n", 2)[2].split("         before")[0].rstrip().rstrip(":") + "."),
        ".SH COMMANDS",
    ]
    for name, command in subparsers(whole).items():
        lines += [
            ".SS " + text(f"swanroam {name}"),
            ".PP",
            *prose(re.sub(r"^`[^`]*`: ", "", command.description or "")),
            ".PP",
            usage(command),
        ]
        for action in command._actions:
            if action.help == argparse.SUPPRESS or action.dest == "help":
                continue
            lines += [".TP", label(action), *prose(action.help or "")]
    lines += [".SH EXIT STATUS"]
    for status, meaning in table("exit status"):
        lines += [".TP", rf"\fB{status}\fR", *prose(meaning)]
    lines += [
        ".SH FILES",
        *entry("/etc/swanroam/swanroam.yaml", "the configuration: swanroam.yaml(5)"),
        *entry(
            "/usr/share/swanroam/strongswan-conf", "drop-ins for strongSwan, and connections complete with swanroam's"
        ),
        *entry("/usr/share/swanroam/examples", "configurations with all settings"),
        *entry("/usr/share/swanroam/sysctl.d", "for hosts with a strict reverse path filter"),
        *entry(
            "/usr/lib/swanroam/interface-hook",
            "announces that an interface goes down; called by the hooks of "
            "NetworkManager, networkd-dispatcher, dhclient and ifupdown",
        ),
        *entry("/var/lib/swanroam/journal.json", "what a daemon that is started again has to know"),
        *entry("/usr/share/doc/swanroam/operations.md.gz", "running it, troubleshooting, log events"),
        ".SH SEE ALSO",
        ".BR swanroam.yaml (5),",
        ".BR swanctl (8),",
        ".BR ip\\-xfrm (8)",
    ]
    return "\n".join(lines) + "\n"


def configuration_page() -> str:
    """swanroam.yaml(5): docs/configuration.md, which is made from the code, and the commented examples."""
    lines = [
        *head("SWANROAM.YAML", 5, "swanroam.yaml", "configuration of swanroam(8)"),
        ".SH DESCRIPTION",
        *reference((ROOT / "docs/configuration.md").read_text(encoding="utf-8").split("\n", 1)[1]),
        ".SH EXAMPLE: A HOST THAT MOVES",
        *verbatim((ROOT / "docs/examples/mobile.yaml").read_text(encoding="utf-8")),
        ".SH EXAMPLE: A HOST WITH A FIXED ADDRESS",
        *verbatim((ROOT / "docs/examples/correspondent.yaml").read_text(encoding="utf-8")),
        ".SH FILES",
        *entry("/usr/share/swanroam/examples", "the examples"),
        *entry("/usr/share/swanroam/schemas/swanroam.schema.json", "for editors"),
        ".SH SEE ALSO",
        ".BR swanroam (8),",
        ".BR swanctl.conf (5)",
    ]
    return "\n".join(lines) + "\n"


def reference(markdown: str) -> Iterator[str]:
    """Headings, paragraphs, lists, code, and tables of two columns but for those that only lead elsewhere."""
    for block in re.split(r"\n\s*\n", markdown.strip("\n")):
        first = block.split("\n", 1)[0]
        if first.startswith("## "):
            yield ".SH " + text(first.removeprefix("## ").replace("`", "").upper())
        elif first.startswith("### "):
            yield ".SS " + text(first.removeprefix("### ").replace("`", ""))
        elif first.startswith("```") or first.startswith("    "):
            yield from verbatim("\n".join(line for line in block.splitlines() if not line.startswith("```")))
        elif first.startswith("|"):
            rows = (row.strip("|").split("|", 1) for row in block.splitlines() if not re.match(r"^\|[\s|-]+$", row))
            for name, meaning in rows:
                if "](#" not in meaning and name.strip() != "section":
                    yield from [".TP", *prose(name), *prose(meaning)]
        elif first.startswith("- "):
            for item in re.split(r"^- ", block, flags=re.MULTILINE)[1:]:
                yield from [r".IP \(bu 2", *prose(item)]
        else:
            yield from [".PP", *prose(block)]


def head(title: str, section: int, name: str, what: str) -> list[str]:
    what = re.sub(r"^`?swanroam`?: ", "", what).rstrip(".")
    return [f'.TH {title} {section} "" "swanroam {__version__}"', ".SH NAME", rf"{name} \- {text(what)}"]


def usage(command: argparse.ArgumentParser) -> str:
    line = " ".join(command.format_usage().split()).removeprefix("usage: ").replace("[-h] ", "")
    return f".RS\n{text(line)}\n.RE"


def label(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    value = "" if action.nargs == 0 else rf"\fI{text(metavar)}\fR"
    options = ", ".join(rf"\fB{text(option)}\fR" for option in action.option_strings)
    return f"{options} {value}".strip()


def entry(name: str, meaning: str) -> list[str]:
    return [".TP", rf"\fI{text(name)}\fR", *prose(meaning)]


def table(first_head: str) -> Iterator[tuple[str, str]]:
    """Rows of two columns below this head in the README."""
    rows = iter(README.split(f"| {first_head} |", 1)[1].splitlines()[2:])
    for row in rows:
        if not row.startswith("|"):
            return
        first, second = row.strip("|").split("|")
        yield first.strip(), second.strip()


def prose(markdown: str) -> list[str]:
    """Paragraphs of simple Markdown: bold, emphasis, code and links."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", markdown.strip()):
        joined = re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", " ".join(paragraph.split()))
        marked = text(joined)
        marked = re.sub(r"\*\*(.+?)\*\*", r"\\fB\1\\fR", marked)
        marked = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", marked)
        marked = re.sub(r"(?<![\w*])\*([^*]+)\*", r"\\fI\1\\fR", marked)
        lines += [".PP"] if lines else []
        lines.append(marked)
    return lines


def verbatim(content: str) -> list[str]:
    return [".nf", *(text(line) or r"\&" for line in content.splitlines()), ".fi"]


def text(plain: str) -> str:
    """For roff: nothing in it is a request or an escape."""
    escaped = (
        plain.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("~", r"\(ti").replace("^", r"\(ha")
    )
    return r"\&" + escaped if escaped.startswith(".") else escaped


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""`swanroam doctor`: what is wrong on this host, or would be at a move, with the command that mends it.

It changes nothing. It works with and without a running daemon, charon and privileges, and says what it could not see.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Collection

from swanroam import __version__
from swanroam.cli.client import ClientError, ask
from swanroam.cli.exits import Exit
from swanroam.config import Config, load_config
from swanroam.daemon.run import api_path
from swanroam.doctor.examination import examine
from swanroam.doctor.view import Api
from swanroam.kernel.findings import Finding, Severity

VERSION = 1
"""Of the JSON document; grows when a key changes its meaning or goes."""
_ORDER = (Severity.ERROR, Severity.WARNING, Severity.UNSEEN, Severity.NOTE, Severity.OK)
_BAD = frozenset({Severity.ERROR, Severity.WARNING})
_COLOURS = {Severity.ERROR: 31, Severity.WARNING: 33, Severity.UNSEEN: 35, Severity.NOTE: 36, Severity.OK: 32}
_COLUMN = 9
_MOST_COLUMNS = 120


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The command's options."""
    parser = commands.add_parser("doctor", help="find what is wrong, and how to mend it", description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="list also what is as it should be")
    parser.add_argument("--json", action="store_true", help="all findings, for programs")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Exit status ATTENTION for errors and warnings; PRIVILEGES when there are none, but not all could be seen."""
    config = load_config(arguments.config)
    findings = asyncio.run(examine(config, arguments.config.absolute(), _api(config)))
    if arguments.json:
        print(json.dumps(document(findings), indent=2))
    else:
        columns = min(shutil.get_terminal_size().columns, _MOST_COLUMNS)
        print(render(findings, columns, verbose=arguments.verbose, colours=sys.stdout.isatty()))
    return _exit_status(findings)


def _api(config: Config) -> Api:
    try:
        return Api(ask(api_path(config), {"command": "status"}))
    except ClientError as error:
        return Api(None, str(error), forbidden=error.status is Exit.PRIVILEGES)


def _exit_status(findings: Collection[Finding]) -> Exit:
    severities = {finding.severity for finding in findings}
    if severities & _BAD:
        return Exit.ATTENTION
    return Exit.PRIVILEGES if Severity.UNSEEN in severities else Exit.OK


def document(findings: Collection[Finding]) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "version": VERSION,
        "swanroam": __version__,
        "fine": _exit_status(findings) is Exit.OK,
        "findings": [
            {
                "check": finding.check,
                "severity": finding.severity.value,
                "evidence": finding.evidence,
                "remedy": finding.remedy,
                "command": finding.command,
            }
            for finding in findings
        ],
    }


def render(findings: Collection[Finding], columns: int, *, verbose: bool, colours: bool) -> str:
    """For people: the worst first. Commands are never broken: they are for copying."""
    lines = [_headline(findings)]
    for severity in _ORDER:
        if severity is not Severity.OK or verbose:
            for finding in findings:
                if finding.severity is severity:
                    lines += _lines(finding, columns, colours=colours)
    return "\n".join(lines)


def _headline(findings: Collection[Finding]) -> str:
    counts = Counter(finding.severity for finding in findings)
    status = _exit_status(findings)
    fine = {Exit.OK: "all is fine", Exit.PRIVILEGES: "nothing wrong was seen, but not everything could be looked at"}
    words = (
        (Severity.ERROR, "error", "errors"),
        (Severity.WARNING, "warning", "warnings"),
        (Severity.UNSEEN, "not seen", "not seen"),
        (Severity.NOTE, "note", "notes"),
        (Severity.OK, "ok", "ok"),
    )
    parts = [
        f"{counts[severity]} {one if counts[severity] == 1 else more}"
        for severity, one, more in words
        if counts[severity]
    ]
    return f"{fine.get(status, 'attention needed')}: {', '.join(parts)}"


def _lines(finding: Finding, columns: int, *, colours: bool) -> list[str]:
    label = f"{finding.severity.value:<{_COLUMN}}"
    indent = " " * _COLUMN
    text = f"{finding.check}: {finding.evidence}" + (f"; {finding.remedy}" if finding.remedy else "")
    lines = textwrap.wrap(
        text,
        max(columns, 40),
        initial_indent=label,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if colours:
        lines[0] = f"\033[{_COLOURS[finding.severity]}m{label}\033[0m{lines[0][_COLUMN:]}"
    return [*lines, *([f"{indent}# {finding.command}"] if finding.command else [])]

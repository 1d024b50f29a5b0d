"""`swanroam reload`: the running daemon reads its configuration file again, and takes over what has changed."""

from __future__ import annotations

import argparse
import sys

from swanroam.cli.client import api_socket, ask
from swanroam.cli.exits import Exit

_STATUS = {"file": Exit.CONFIGURATION, "restart": Exit.RESTART, "host": Exit.FAILED}
_REMEDIES = {
    "file": "mend the file, then: swanroam reload",
    "restart": "take that back and reload, or: systemctl restart swanroam (connections go on meanwhile)",
    "host": "do that, then: swanroam reload",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    return commands.add_parser("reload", help="let the daemon read the file again", description=__doc__)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the file is at work; that of `check-config` when it is wrong."""
    request = {"command": "reload", "file": str(arguments.config.absolute())}
    answer = ask(api_socket(arguments.config), request)
    file, lines = answer["file"], answer["lines"]
    if answer["result"] != "refused":
        print(f"{file}: {'taken over' if lines else 'nothing has changed'}")
        for line in lines:
            print(f"  {line}")
        return Exit.OK
    print(f"swanroam: {file} was refused, and what was read before is still at work:", file=sys.stderr)
    for line in lines:
        print(f"  {line}", file=sys.stderr)
    print(f"  {_REMEDIES[answer['ground']]}", file=sys.stderr)
    return _STATUS[answer["ground"]]

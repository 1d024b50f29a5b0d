"""`swanroam reload`: the running daemon reads its configuration file again, and takes over what has changed."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

from swanroam.cli.client import ClientError, ask
from swanroam.cli.exits import Exit
from swanroam.config import DEFAULT_RUNTIME_DIRECTORY, ConfigError, load_config

_STATUS = {"file": Exit.CONFIGURATION, "restart": Exit.FAILED, "host": Exit.FAILED}
_REMEDIES = {
    "file": "mend the file, then: swanroam reload",
    "restart": "take that back and reload, or: systemctl restart swanroam (connections go on meanwhile)",
    "host": "do that, then: swanroam reload",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    return commands.add_parser("reload", help="let the daemon read the file again", description=__doc__)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the file is at work; that of `check-config` when it is wrong, whether a daemon runs or not."""
    request = {"command": "reload", "file": str(arguments.config.absolute())}
    try:
        config = load_config(arguments.config)
    except ConfigError:
        with suppress(ClientError):  # so that it says as well what it has refused, if it is where it is as a rule
            ask(DEFAULT_RUNTIME_DIRECTORY / "api.sock", request)
        raise
    answer = ask(config.runtime_directory / "api.sock", request)
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

"""`swanroam`: keeps live connections running under IPsec when this host's address changes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swanroam import __version__
from swanroam.cli import check_config, cleanup, doctor, history, leave, move, reload, run, sockets, status
from swanroam.cli.client import ClientError
from swanroam.cli.exits import Exit
from swanroam.config import ConfigError, load_config

DEFAULT_CONFIG = Path("/etc/swanroam/swanroam.yaml")
_COMMANDS = (status, sockets, history, move, leave, doctor, check_config, reload, run, cleanup)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.handler(arguments))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return Exit.CONFIGURATION
    except ClientError as error:
        if error.status is Exit.NOT_RUNNING and (wrong := _wrong(arguments.config)) is not None:
            print(wrong, file=sys.stderr)  # so it could not be started either
            return Exit.CONFIGURATION
        print(f"swanroam: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return Exit.FAILED  # what reads our output has gone


def _wrong(file: Path) -> ConfigError | None:
    """What is wrong with the configuration file."""
    try:
        load_config(file)
    except ConfigError as error:
        return error
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swanroam", description=__doc__)
    parser.add_argument("--version", action="version", version=f"swanroam {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        sub = command.add_parser(commands)
        sub.add_argument(
            "--config",
            type=Path,
            default=DEFAULT_CONFIG,
            metavar="FILE",
            help=f"the configuration file; default: {DEFAULT_CONFIG}",
        )
        sub.set_defaults(handler=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())

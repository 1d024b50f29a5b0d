"""`swanroam cleanup`: takes everything of swanroam's out of the kernel, when no daemon runs.

Connections that still use an old address end. strongSwan's own policies and associations are left alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from swanroam.cli.exits import Exit
from swanroam.config import load_config
from swanroam.daemon.clearing import clear_host
from swanroam.daemon.controller import HostError
from swanroam.daemon.run import AlreadyRunningError, DirectoryError, single_instance
from swanroam.kernel.preflight import has_net_admin
from swanroam.kernel.xfrm.errors import XfrmPermission


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The command's options."""
    return commands.add_parser("cleanup", help="remove what a stopped daemon left", description=__doc__)


def run(arguments: argparse.Namespace) -> int:
    """Prints what was removed."""
    config = load_config(arguments.config)
    if not has_net_admin():
        print("swanroam: this process lacks CAP_NET_ADMIN: run it as root", file=sys.stderr)
        return Exit.PRIVILEGES
    try:
        with single_instance(config):
            removed = asyncio.run(clear_host(config))
    except AlreadyRunningError as error:
        print(f"swanroam: {error}", file=sys.stderr)
        return Exit.ALREADY_RUNNING
    except DirectoryError as error:
        print(f"swanroam: {error}", file=sys.stderr)
        return Exit.FILES
    except HostError as error:
        print(f"swanroam: {error}", file=sys.stderr)
        return Exit.PRIVILEGES if isinstance(error.__cause__, XfrmPermission) else Exit.FAILED
    print("\n".join(f"removed {text}" for text in removed) or "nothing was left")
    return Exit.OK

"""`swanroam leave INTERFACE`: move away from an interface before it goes down, while its address still works."""

from __future__ import annotations

import argparse
import asyncio
import sys
from ipaddress import ip_address
from typing import Any

from swanroam.cli.client import ClientError, ask
from swanroam.cli.exits import Exit
from swanroam.cli.move import follow
from swanroam.config import Config, load_config
from swanroam.kernel.addresses import AddressSelection
from swanroam.kernel.departure import DepartureError, addresses_of, ways_without


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = commands.add_parser("leave", help="move away from an interface before it goes down", description=__doc__)
    parser.add_argument("interface", help="the interface that will go down")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="default: 30")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Orders a move for each peer that sees an address of the interface, and follows it.

    Nothing to do, as nobody sees one, is success.
    """
    config = load_config(arguments.config)
    api = config.runtime_directory / "api.sock"
    document = ask(api, {"command": "status"})
    try:
        ways = asyncio.run(_ways(config, document["peers"], arguments.interface))
    except DepartureError as error:
        raise ClientError(str(error), Exit.FAILED) from None
    targets = {}
    for name, source in ways.items():
        try:
            if source is None:
                raise ClientError("no other interface that is up has an address and a route to it", Exit.FAILED)
            ask(api, {"command": "move", "address": source, "peer": name})
        except ClientError as error:  # the others may be able to
            print(f"{name}: stays on {arguments.interface}: {error}", file=sys.stderr)
        else:
            targets[name] = source
    status = follow(api, targets, arguments.timeout)
    return status if len(targets) == len(ways) else Exit.FAILED


async def _ways(config: Config, peers: list[dict[str, Any]], interface: str) -> dict[str, str | None]:
    """For each peer that sees an address of the interface, what it shall see instead; None where there is nothing."""
    settings = config.addresses
    selection = AddressSelection(settings.interfaces, settings.ignore_interfaces, settings.ignore)
    leaving = await addresses_of(interface)
    found: dict[str, str | None] = {}
    for peer in peers:
        own, other = peer["own"], peer["peer"]
        if own is None or other is None or ip_address(own["current"]) not in leaving:
            continue
        ways = await ways_without(interface, ip_address(other["current"]), selection, settings.prefer)
        found[peer["name"]] = str(ways[0].source) if ways else None
    return found

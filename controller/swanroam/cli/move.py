"""`swanroam move ADDRESS`: a planned move to an address that this host has."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from swanroam.cli.client import ClientError, api_socket, ask
from swanroam.cli.exits import Exit
from swanroam.history.words import seconds

POLL = 0.1
"""Seconds between two looks at how far the move is."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = commands.add_parser("move", help="move to another address of this host", description=__doc__)
    parser.add_argument("address", help="the address to move to; `auto` follows routing again")
    parser.add_argument("--peer", metavar="NAME", help="only towards this peer; default: all")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="how long to wait for the move; default: 30"
    )
    parser.add_argument("--no-wait", action="store_true", help="return as soon as the daemon has taken the order")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Orders the move and follows it until the filters stand at the new address."""
    api = api_socket(arguments.config)
    if arguments.address != "auto":
        try:
            ip_address(arguments.address)
        except ValueError:
            raise ClientError(f"{arguments.address!r} is not an IP address", Exit.USAGE) from None
    answer = ask(api, {"command": "move", "address": arguments.address, "peer": arguments.peer})
    peers: list[str] = answer["peers"]
    if arguments.address == "auto" or arguments.no_wait:
        print(f"ordered for {', '.join(peers)}")
        return Exit.OK
    return follow(api, dict.fromkeys(peers, arguments.address), arguments.timeout)


def follow(api: Path, targets: Mapping[str, str], timeout: float) -> Exit:
    """Says when each peer's filters stand at the address that was ordered for it, or that they do not yet.

    `targets`: names of peers, with addresses. `timeout`: seconds. Raises ClientError.
    """
    waiting = dict.fromkeys(targets, "")
    deadline = time.monotonic() + timeout
    while waiting and time.monotonic() < deadline:
        document = ask(api, {"command": "status"})
        for peer in document["peers"]:
            name = peer["name"]
            if name in waiting and _arrived(peer, targets[name]):
                print(f"{name}: moved to {targets[name]}{_timing(peer)}")
                del waiting[name]
            elif name in waiting:
                waiting[name] = peer["problem"] or peer["state"]
        if waiting:
            time.sleep(POLL)
    for name, state in waiting.items():
        text = f"{name}: not there after {timeout:g} s: {state}; see `swanroam status`"
        print(text, file=sys.stderr)
    return Exit.FAILED if waiting else Exit.OK


def _arrived(peer: dict[str, Any], address: str) -> bool:
    own = peer["own"]
    if own is None or own["current"] != address:
        return False
    handover = peer["handover"]
    return handover is None or "filters" in handover["seconds"]


def _timing(peer: dict[str, Any]) -> str:
    handover = peer["handover"] or (peer["history"][-1] if peer["history"] else None)
    if handover is None:
        return " (it was there already)"
    steps = ", ".join(f"{step} {seconds(at)}" for step, at in handover["seconds"].items())
    return f" (handover {handover['id']}: {steps})"

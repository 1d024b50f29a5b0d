"""`swanroam sockets`: which connections would move with a change of address, which would not, and why."""

from __future__ import annotations

import argparse
import json
from typing import Any

from swanroam.cli.client import api_socket, ask
from swanroam.cli.exits import Exit
from swanroam.cli.screen import wrapped

_WORDS = {"yes": "moves", "perhaps": "perhaps", "no": "stays", "needless": "as it is"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "sockets", help="which connections would move, which would not, and why", description=__doc__
    )
    parser.add_argument("--peer", metavar="NAME", help="only those with this peer")
    parser.add_argument("--json", action="store_true", help="the whole document, for programs")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Asks the daemon, which looks at the sockets and changes nothing."""
    document = ask(api_socket(arguments.config), {"command": "sockets"})
    del document["ok"]
    if arguments.peer is not None:
        document["peers"] = [peer for peer in document["peers"] if peer["name"] == arguments.peer]
    print(json.dumps(document, indent=2) if arguments.json else render(document))
    return Exit.OK


def render(document: dict[str, Any]) -> str:
    """The document for people."""
    lines: list[str] = []
    for peer in document["peers"]:
        lines += [*([""] if lines else []), f"{peer['name']}: {_summary(peer['sockets'])}"]
        for socket in sorted(peer["sockets"], key=lambda socket: list(_WORDS).index(socket["moves"])):
            owners = ", ".join(socket["owners"]) or "no process found"
            where = f"{socket['protocol']} {socket['local']} - {socket['remote']} {socket['state']} ({owners})"
            lines += wrapped(f"  {_WORDS[socket['moves']]:<8} {where}", " " * 11)
            if socket["reason"]:
                lines += wrapped(f"{'':<11}{socket['reason']}", " " * 11)
    if document["bound"]:
        lines += ["", "not connected, and bound to an address of this host:"]
        for socket in document["bound"]:
            lines += wrapped(f"  {socket['protocol']} {socket['local']} {socket['state']}: {socket['reason']}", " " * 4)
    return "\n".join(lines)


def _summary(sockets: list[dict[str, Any]]) -> str:
    if not sockets:
        return "no connection"
    counts = {word: sum(socket["moves"] == moves for socket in sockets) for moves, word in _WORDS.items()}
    parts = [f"{count} {_plural(word, count)}" for word, count in counts.items() if count]
    return ", ".join(parts)


def _plural(word: str, count: int) -> str:
    return {"moves": "move", "stays": "stay"}.get(word, word) if count != 1 else word

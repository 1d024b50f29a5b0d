"""`swanroam history`: what happened to addresses and connections, and when; also while no daemon runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from swanroam.cli.client import ClientError
from swanroam.cli.exits import Exit
from swanroam.cli.history_text import render_all, render_one
from swanroam.cli.screen import Paint
from swanroam.config import load_config
from swanroam.daemon.run import history_path
from swanroam.history.clock import FORMS, moment, stamp
from swanroam.history.document import history_document
from swanroam.history.handovers import PastHandover, Told, tell
from swanroam.history.store import HistoryError, read
from swanroam.history.svg import draw

LATEST = "last"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = commands.add_parser("history", help="past handovers, and what else happened", description=__doc__)
    parser.add_argument(
        "handover", nargs="?", help=f"its id, or the beginning of it, or `{LATEST}`: its timeline; default: a list"
    )
    parser.add_argument("--peer", metavar="NAME", help="only with this peer")
    parser.add_argument("--since", metavar="TIME", help=f"only from then on: {FORMS}")
    parser.add_argument("--json", action="store_true", help="the whole document, for programs")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the handover's timeline into this file")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Reads what the daemon has written."""
    config = load_config(arguments.config)
    path = history_path(config)
    if arguments.peer is not None and config.peer(arguments.peer) is None:
        known = ", ".join(peer.name for peer in config.peers)
        raise ClientError(f"no peer is called {arguments.peer!r}; there are: {known}", Exit.USAGE)
    if arguments.svg is not None and arguments.handover is None:
        raise ClientError(f"--svg draws one handover: name it, or `{LATEST}`", Exit.USAGE)
    now = stamp()
    try:
        since = moment(arguments.since, now) if arguments.since is not None else None
        found = read(path)
    except ValueError as error:
        raise ClientError(f"--since: {error}", Exit.USAGE) from None
    except HistoryError as error:
        raise ClientError(str(error), Exit.PRIVILEGES if error.denied else Exit.FILES) from None
    told = _chosen(tell(found.entries), arguments.peer, since)
    if found.unreadable and not arguments.json:
        text = f"{found.unreadable} line(s) of {path} make no sense and are passed over"
        print(f"swanroam: {text}: a crash tore them, or the file is damaged", file=sys.stderr)
    paint = Paint.for_stream(sys.stdout)
    if arguments.handover is None:
        if arguments.json:
            document = history_document(list(told.handovers), list(told.others), found.unreadable)
            print(json.dumps(document, indent=2))
        else:
            print(render_all(told, path, since, now, paint))
        return Exit.OK
    handovers = _named(told, arguments.handover)
    if arguments.svg is not None:
        _write(arguments.svg, draw(handovers[-1]))
    if arguments.json:
        print(json.dumps(history_document(handovers, [], found.unreadable), indent=2))
    elif arguments.svg is None:
        print("\n\n".join(render_one(handover, paint) for handover in handovers))
    return Exit.OK


def _chosen(told: Told, name: str | None, since: float | None) -> Told:
    """A handover counts from its last moment on: one that went on after `since` is wanted."""
    handovers = [
        handover
        for handover in told.handovers
        if name in (None, handover.start.peer) and (since is None or handover.entries[-1].at >= since)
    ]
    others = [
        entry for entry in told.others if name in (None, entry.peer or name) and (since is None or entry.at >= since)
    ]
    return Told(tuple(handovers), tuple(others))


def _named(told: Told, name: str) -> list[PastHandover]:
    """That handover; several if it was one with several peers. Raises ClientError."""
    if not told.handovers:
        raise ClientError("there is no handover in the history", Exit.FAILED)
    if name == LATEST:
        return [told.handovers[-1]]
    found = [handover for handover in told.handovers if handover.id.startswith(name.lower())]
    if not found:
        raise ClientError(f"no handover {name!r} is in the history; `swanroam history` lists them", Exit.FAILED)
    if len({handover.id for handover in found}) > 1:
        ids = ", ".join(sorted({handover.id for handover in found}))
        raise ClientError(f"{name!r} is the beginning of several: {ids}", Exit.FAILED)
    return found


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ClientError(f"cannot write {path}: {error.strerror}", Exit.FILES) from None

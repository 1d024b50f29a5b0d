"""`swanroam status`: how every peer is doing; the first line answers "is everything fine?"."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from swanroam.cli.client import ClientError, api_socket, ask
from swanroam.cli.exits import Exit
from swanroam.cli.screen import PLAIN, Colour, Paint, ago, counted, labelled, together, wrapped
from swanroam.cli.watch import watch
from swanroam.history.words import CAUSES, seconds

READY = "protected and ready to move"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = commands.add_parser("status", help="show peers, addresses and handovers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="the whole document, for programs")
    parser.add_argument("--check", action="store_true", help=f"exit status {Exit.ATTENTION.value} unless all is fine")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_interval,
        const=2.0,
        metavar="SECONDS",
        help="a live view, until Ctrl-C; default: every 2 s",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Prints the daemon's status document."""
    api = api_socket(arguments.config)
    paint = Paint.for_stream(sys.stdout)
    if arguments.watch is not None:
        if arguments.json or arguments.check:
            raise ClientError("--watch goes with neither --json nor --check: it never ends by itself", Exit.USAGE)
        watch(lambda: _picture(api, paint), sys.stdout, arguments.watch)
        return Exit.OK
    document = _asked(api)
    print(json.dumps(document, indent=2) if arguments.json else render(document, paint))
    return Exit.ATTENTION if arguments.check and document["problems"] else Exit.OK


def render(document: dict[str, Any], paint: Paint = PLAIN) -> str:
    """The document for people."""
    fine = not document["problems"]
    lines = [paint(_headline(document), Colour.GOOD if fine else Colour.BAD)]
    for problem in document["problems"]:
        lines += paint.lines(wrapped(f"  ! {problem}", "    "), Colour.BAD)
    configuration = document.get("configuration")  # which an older daemon does not tell
    if configuration is not None and not configuration["current"] and not configuration["refused"]:
        remedy = "`swanroam reload` takes it over"
        if configuration["wrong"]:
            remedy = f"it is wrong ({configuration['wrong'][0]}), and a restart would fail: mend it"
        text = f"  {configuration['file']} is not what is at work: {remedy}"
        lines += wrapped(text, "    ")
    addresses = ", ".join(document["addresses"]) or "no address"
    up = together(f"up {ago(document['uptime'])}")
    this = f"{document['identity']} at {addresses}; swanroam {document['swanroam']}, {up}"
    lines += labelled("this host", this)
    for peer in document["peers"]:
        lines += ["", *_heading(peer, paint), *_peer(peer)]
    dropped = document["control_channel"]["dropped"]
    if dropped:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
        lines += ["", *wrapped(f"Datagrams dropped on the control channel: {counts}", "  ")]
    return "\n".join(lines)


def _asked(api: Path) -> dict[str, Any]:
    document = ask(api, {"command": "status", "connections": True})
    del document["ok"]
    return document


def _picture(api: Path, paint: Paint) -> str:
    """For a view that goes on while the daemon is restarted."""
    try:
        return render(_asked(api), paint)
    except ClientError as error:
        return "\n".join(paint.lines(wrapped(f"not known: {error}", "  "), Colour.BAD))


def _interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return value


def _headline(document: dict[str, Any]) -> str:
    running = sum((peer["handover"] or peer["peer_handover"]) is not None for peer in document["peers"])
    moves = "no handover running" if not running else f"{counted(running, 'handover')} running"
    fine = "all is fine" if not document["problems"] else "attention needed"
    return f"{fine}: {counted(len(document['peers']), 'peer')}, {moves}"


def _heading(peer: dict[str, Any], paint: Paint) -> list[str]:
    state = Colour.BAD if peer["problem"] else Colour.GOOD if peer["state"] == READY else Colour.WARNING
    return paint.lines(wrapped(f"{peer['name']}: {peer['state']}", "  "), state)


def _peer(peer: dict[str, Any]) -> list[str]:
    lines = labelled("connection", f"{peer['connection']}, filters by {peer['filters']}")
    if peer.get("leaving"):
        lines += labelled("leaving", "not configured any more; it goes when no connection needs its old addresses")
    if peer.get("settings_wait"):
        lines += labelled("settings", "some of the file's wait for the end of the handover")
    if peer["name"] != peer["identity"]:
        lines += labelled("identity", peer["identity"])
    if peer.get("swanroam"):
        lines += labelled("it runs", f"swanroam {peer['swanroam']}")
    lines += _addresses(peer)
    for association in peer["associations"]:
        what = _children(peer, association)
        where = f"{association['local']} - {association['remote']}"
        lines += labelled("IKE_SA", f"{association['ike_id']}: {where}, {what}")
    for carried in peer["carried"]:
        inner, outer = f"{carried['local']} - {carried['remote']}", carried["outer"]
        kind = " (control only: new address not proven yet)" if carried["control_only"] else ""
        lines += labelled("carrier", f"{inner} inside {outer}{kind}")
    if peer["refusals"]:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(peer["refusals"].items()))
        lines += labelled("refused", f"changes of its address: {counts}")
    lines += _sockets(peer)
    for whose, handover in (("we move", peer["handover"]), ("it moves", peer["peer_handover"])):
        if handover is not None:
            lines += _handover(whose, handover)
    if peer["handover"] is None and peer["peer_handover"] is None:
        lines += _handover("last move", peer["history"][-1]) if peer["history"] else []
    return lines


def _addresses(peer: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for label, binding in (("our address", peer["own"]), ("its address", peer["peer"])):
        if binding is None:
            lines += labelled(label, "unknown: no IKE_SA")
        else:
            old = f", still using {', '.join(binding['deprecated'])}" if binding["deprecated"] else ""
            proof = " (not proven yet)" if binding is peer["peer"] and peer["unproven"] is not None else ""
            lines += labelled(label, f"{binding['current']}{proof}{old}")
    if peer["pinned"] is not None:
        lines += labelled("ordered", f"{peer['pinned']}; `swanroam move auto` follows routing again")
    if peer["sought_at"] is not None:
        where = f"at {', '.join(peer['sought_at'])}" if peer["sought_at"] else "no other address"
        lines += labelled("looked for", where)
    return lines


def _sockets(peer: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    transport, connections = peer["transport"], peer["connections"]
    parts = [f"{connections['tcp']} TCP, {connections['udp']} UDP at the present addresses"] if connections else []
    if transport["moved"]:
        parts.append(f"{transport['moved']} moved since the start")
    if transport["moving"]:
        parts.append("some are just moving")
    if parts:
        lines += labelled("sockets", "; ".join(parts))
    for entry in peer["sockets"]:
        owners = ", ".join(entry["owners"]) or "no process found"
        where = f"{entry['local']} - {entry['remote']}"
        stays = f": {entry['stays']}" if entry["stays"] else ""
        lines += labelled("on carrier", f"{entry['protocol']} {where} {entry['state']} ({owners}){stays}")
    return lines


def _children(peer: dict[str, Any], association: dict[str, Any]) -> str:
    if association["complete"]:
        return "all CHILD_SAs installed"
    # The control CHILD_SA of an old pair is ended on purpose, as soon as the new pair has one.
    old = [*(peer["own"] or {}).get("deprecated", ()), *(peer["peer"] or {}).get("deprecated", ())]
    if association["local"] in old or association["remote"] in old:
        return "kept for what still uses it"
    return "CHILD_SAs missing"


def _handover(label: str, handover: dict[str, Any]) -> list[str]:
    detail = f": {handover['detail']}" if handover["detail"] else ""
    steps = ", ".join(together(f"{step} {seconds(at)}") for step, at in handover["seconds"].items())
    cause = CAUSES.get(handover["cause"], handover["cause"])
    return [
        *labelled(label, f"{handover['old']} -> {handover['new']}  {handover['result']}{detail}"),
        *labelled("", f"began {ago(handover['age'])} ago, {cause}"),
        *labelled("", steps or "nothing done yet"),
        *labelled("", f"swanroam history {handover['id']}"),
    ]

"""`swanroam status`: how every peer is doing; the first line answers "is everything fine?"."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from swanroam.cli.client import api_socket, ask
from swanroam.cli.exits import Exit

COLUMNS = 80
"""How wide `status` writes."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = commands.add_parser("status", help="show peers, addresses and handovers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="the whole document, for programs")
    parser.add_argument("--check", action="store_true", help=f"exit status {Exit.ATTENTION.value} unless all is fine")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Prints the daemon's status document."""
    document = ask(api_socket(arguments.config), {"command": "status"})
    del document["ok"]
    print(json.dumps(document, indent=2) if arguments.json else render(document))
    return Exit.ATTENTION if arguments.check and document["problems"] else Exit.OK


def render(document: dict[str, Any]) -> str:
    """The document for people."""
    lines = [_headline(document)]
    for problem in document["problems"]:
        lines += wrapped(f"  ! {problem}", "    ")
    configuration = document.get("configuration")  # which an older daemon does not tell
    if configuration is not None and not configuration["current"] and not configuration["refused"]:
        remedy = "`swanroam reload` takes it over"
        if configuration["wrong"]:
            remedy = f"it is wrong ({configuration['wrong'][0]}), and a restart would fail: mend it"
        text = f"  {configuration['file']} is not what is at work: {remedy}"
        lines += wrapped(text, "    ")
    for peer in document["peers"]:
        lines += ["", f"{peer['name']}: {peer['state']}", *_peer(peer)]
    dropped = document["control_channel"]["dropped"]
    if dropped:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
        lines += ["", *wrapped(f"Datagrams dropped on the control channel: {counts}", "  ")]
    return "\n".join(lines)


def seconds(value: float) -> str:
    """A duration as people read it."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _headline(document: dict[str, Any]) -> str:
    running = sum((peer["handover"] or peer["peer_handover"]) is not None for peer in document["peers"])
    moves = "no handover running" if not running else f"{running} handover{'s' if running > 1 else ''} running"
    peers = f"{len(document['peers'])} peer{'s' if len(document['peers']) != 1 else ''}"
    fine = "all is fine" if not document["problems"] else "attention needed"
    return f"{fine}: {peers}, {moves}"


def _peer(peer: dict[str, Any]) -> list[str]:
    lines = _line("connection", f"{peer['connection']}, filters by {peer['filters']}")
    if peer.get("leaving"):
        lines += _line("leaving", "not configured any more; it goes when no connection needs its old addresses")
    if peer.get("settings_wait"):
        lines += _line("settings", "some of the file's wait for the end of the handover")
    if peer["name"] != peer["identity"]:
        lines += _line("identity", peer["identity"])
    for label, binding in (("our address", peer["own"]), ("its address", peer["peer"])):
        if binding is None:
            lines += _line(label, "unknown: no IKE_SA")
        else:
            old = f", still using {', '.join(binding['deprecated'])}" if binding["deprecated"] else ""
            proof = " (not proven yet)" if binding is peer["peer"] and peer["unproven"] is not None else ""
            lines += _line(label, f"{binding['current']}{proof}{old}")
    if peer["sought_at"] is not None:
        lines += _line("looked for", f"at {', '.join(peer['sought_at'])}" if peer["sought_at"] else "no other address")
    for association in peer["associations"]:
        what = _children(peer, association)
        where = f"{association['local']} - {association['remote']}"
        lines += _line("IKE_SA", f"{association['ike_id']}: {where}, {what}")
    for carried in peer["carried"]:
        inner, outer = f"{carried['local']} - {carried['remote']}", carried["outer"]
        kind = " (control only: new address not proven yet)" if carried["control_only"] else ""
        lines += _line("carrier", f"{inner} inside {outer}{kind}")
    if peer["refusals"]:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(peer["refusals"].items()))
        lines += _line("refused", f"changes of its address: {counts}")
    transport = peer["transport"]
    if transport["moving"] or transport["moved"]:
        moving = ", more are just moving" if transport["moving"] else ""
        lines += _line("sockets", f"{transport['moved']} moved to the present addresses{moving}")
    for entry in peer["sockets"]:
        owners = ", ".join(entry["owners"]) or "no process"
        where = f"{entry['local']} - {entry['remote']}"
        stays = f": {entry['stays']}" if entry["stays"] else ""
        lines += _line("on carrier", f"{entry['protocol']} {where} {entry['state']} ({owners}){stays}")
    for handover in [entry for entry in (peer["handover"], peer["peer_handover"]) if entry is not None]:
        lines += _handover("handover", handover)
    if peer["history"] and peer["handover"] is None:
        lines += _handover("last", peer["history"][-1])
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
    steps = ", ".join(f"{step} {seconds(at)}" for step, at in handover["seconds"].items())
    return [
        *_line(label, f"{handover['id']}  {handover['old']} -> {handover['new']}  {handover['result']}{detail}"),
        *_line("", steps or "nothing done yet"),
    ]


def _line(label: str, text: str) -> list[str]:
    return wrapped(f"  {label:<12} {text}", " " * 15)


def wrapped(text: str, indent: str) -> list[str]:
    """The text in lines of at most 80 columns, where its words allow it: addresses are for copying, never broken."""
    return textwrap.wrap(
        text,
        COLUMNS,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )

"""Do charon, the kernel and the controller of a host say the same, and is it what a host at rest should say?"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from vici.exception import CommandException

from lab.host import Host
from lab.ike_config import CONTROL, DATA
from lab.waiting import wait_for
from swanroam.kernel.xfrm.locks import LOCK

_STATE = re.compile(r"^src (\S+) dst (\S+)\n\s+proto esp spi (0x[0-9a-f]+) reqid (\d+) mode (\w+)", re.MULTILINE)
_POLICY = re.compile(r"^src (\S+) dst (\S+).*\n\s+dir (\w+)", re.MULTILINE)
_TEMPLATE = re.compile(r"tmpl src (\S+) dst (\S+)\n\s+proto esp (?:spi \S+ )?reqid (\d+)\S* mode (\w+)")
_MODES = {DATA: "TRANSPORT", CONTROL: "TUNNEL"}

State = tuple[str, str, int, int, str]
"""Source, destination, SPI, reqid, mode."""
Policy = tuple[str, str, str, str, str, int, str]
"""Direction, selector's source and destination, template's source and destination, reqid, mode."""


def contradictions(host: Host) -> list[str]:
    """Everything in which they differ, in words; empty for a host at rest at its present address."""
    sas = host.charon.sas()
    return [*_charon(host, sas), *_kernel(host, sas), *_controller(host, sas)]


def _charon(host: Host, sas: list[dict[str, Any]]) -> Iterator[str]:
    for peer in host.controller.peers:
        pair = str(host.address), str(peer.address)
        of_peer = [sa for sa in sas if sa["remote-id"] == peer.identity]
        if len(of_peer) != 1:
            yield f"charon: {len(of_peer)} IKE_SAs with {peer.name}: {[_ends(sa) for sa in of_peer]}"
        for sa in of_peer:
            if (*_ends(sa), sa["state"]) != (*pair, "ESTABLISHED"):
                yield f"charon: IKE_SA {_ends(sa)} {sa['state']} instead of {pair}"
            children = [(child["name"], child.get("mode"), child["state"]) for child in sa["child-sas"].values()]
            expected = [(name, mode, "INSTALLED") for name, mode in _MODES.items()]
            if sorted(children) != sorted(expected):
                yield f"charon: CHILD_SAs {children}"


def _ends(sa: dict[str, Any]) -> tuple[str, str]:
    return sa["local-host"], sa["remote-host"]


def _kernel(host: Host, sas: list[dict[str, Any]]) -> Iterator[str]:
    states: set[State] = set()
    policies: set[Policy] = set()
    for sa in sas:
        local, remote = _ends(sa)
        for child in sa["child-sas"].values():
            if "spi-in" not in child:
                continue
            reqid, mode = int(child["reqid"]), child["mode"].lower()
            states.add((remote, local, int(child["spi-in"], 16), reqid, mode))
            states.add((local, remote, int(child["spi-out"], 16), reqid, mode))
            ours, theirs = child["local-ts"][0], child["remote-ts"][0]
            outer = (local, remote) if mode == "tunnel" else (_unspecified(host), _unspecified(host))
            policies.add(("out", ours, theirs, *outer, reqid, mode))
            for direction in ("in", "fwd") if mode == "tunnel" else ("in",):
                policies.add((direction, theirs, ours, *reversed(outer), reqid, mode))
    yield from (f"this is locked: {entry}" for entry in locks(host))
    yield from _difference("SA", states, kernel_states(host))
    yield from _difference("policy", policies, kernel_policies(host))


def _unspecified(host: Host) -> str:
    return "0.0.0.0" if host.address.version == 4 else "::"


def _difference(what: str, charon: set[Any], kernel: set[Any]) -> Iterator[str]:
    for entry in sorted(charon - kernel):
        yield f"charon has this {what}, the kernel has not: {entry}"
    for entry in sorted(kernel - charon):
        yield f"the kernel has this {what}, charon has not: {entry}"


def kernel_states(host: Host) -> set[State]:
    """All SAs in the kernel."""
    shown = host.ip("xfrm state list nokeys")
    return {
        (source, destination, int(spi, 16), int(reqid), mode)
        for source, destination, spi, reqid, mode in _STATE.findall(shown)
    }


def locks(host: Host) -> list[str]:
    """Connections from which nothing is let in, because they are being moved, or half moved: their selectors."""
    shown = re.split(r"^(?=src )", host.ip("-s xfrm policy show nosock"), flags=re.MULTILINE)
    return [entry.partition("\n")[0] for entry in shown if f"uid {LOCK}" in entry.partition("\n")[0]]


def kernel_policies(host: Host) -> set[Policy]:
    """All policies in the kernel that ask for ESP."""
    found: set[Policy] = set()
    for entry in re.split(r"^(?=src )", host.ip("xfrm policy show nosock"), flags=re.MULTILINE):
        template = _TEMPLATE.search(entry)
        if template is not None:
            selector = _POLICY.match(entry)
            assert selector is not None, entry
            source, destination, direction = selector.groups()
            outer_source, outer_destination, reqid, mode = template.groups()
            found.add((direction, source, destination, outer_source, outer_destination, int(reqid), mode))
    return found


def _controller(host: Host, sas: list[dict[str, Any]]) -> Iterator[str]:
    status = host.status()
    by_name = {entry["name"]: entry for entry in status["peers"]}
    for peer in host.controller.peers:
        said = by_name[peer.name]
        pair = {"local": str(host.address), "remote": str(peer.address)}
        associations = [
            {"ike_id": int(sa["uniqueid"]), **pair, "control": True, "complete": True}
            for sa in sas
            if sa["remote-id"] == peer.identity
        ]
        expected = {
            "managed": True,
            "own": {"current": pair["local"], "deprecated": []},
            "peer": {"current": pair["remote"], "deprecated": []},
            "proven": pair["remote"],
            "associations": associations,
            "carried": [],
            "sockets": [],
            "handover": None,
            "peer_handover": None,
            "guarded_after_release": [],
            "problem": "",
        }
        for key, value in expected.items():
            if said[key] != value:
                yield f"status of {peer.name}: {key} is {said[key]!r} instead of {value!r}"


def rekey_all(host: Host) -> None:
    """Rekey every CHILD_SA, then every IKE_SA of a host; returns when the new ones stand."""
    for sa in host.charon.sas():
        for child in sa["child-sas"].values():
            rekey_child(host, child)
    for sa in host.charon.sas():
        rekey_ike(host, sa)


def begin_rekeys(host: Host) -> None:
    """Have charon begin to rekey every CHILD_SA and every IKE_SA of a host; returns at once. One may end meanwhile."""
    sas = host.charon.sas()
    chosen = [{"child-id": child["uniqueid"]} for sa in sas for child in sa["child-sas"].values()]
    chosen += [{"ike-id": sa["uniqueid"]} for sa in sas]
    with host.charon.session() as session:
        for what in chosen:
            with suppress(CommandException):
                session.rekey(what)


def rekey_child(host: Host, child: dict[str, Any]) -> None:
    """Rekey one CHILD_SA, as `Charon.sas` gives it; returns when the old one is gone everywhere.

    Not earlier: charon keeps it for a while, and never ends it when its IKE_SA is rekeyed meanwhile (5.9.8).
    """
    with host.charon.session() as session:
        session.rekey({"child-id": child["uniqueid"]})
    old = {child["spi-in"], child["spi-out"]}

    def replaced() -> bool:
        ends = [host, *host.controller.peers]
        children = [list(_children(end)) for end in ends]
        return any(_same(child, other) and other["state"] == "INSTALLED" for other in children[0]) and not any(
            old & {other.get("spi-in"), other.get("spi-out")} for found in children for other in found
        )

    _wait_rekeyed(host, f"CHILD_SA {child['name']} {child['local-ts']}", replaced)


def _children(host: Host) -> Iterator[dict[str, Any]]:
    for sa in host.charon.sas():
        yield from sa["child-sas"].values()


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[key] == other.get(key) for key in ("name", "local-ts", "remote-ts"))


def rekey_ike(host: Host, sa: dict[str, Any]) -> None:
    """Rekey one IKE_SA, as `Charon.sas` gives it; its CHILD_SAs go to the new one."""
    with host.charon.session() as session:
        session.rekey({"ike-id": sa["uniqueid"]})

    def replaced() -> bool:
        now = [other for other in host.charon.sas() if _ends(other) == _ends(sa)]
        children = {child["name"] for child in sa["child-sas"].values()}
        return all(other["initiator-spi"] != sa["initiator-spi"] for other in now) and any(
            other["state"] == "ESTABLISHED" and children <= {child["name"] for child in other["child-sas"].values()}
            for other in now
        )

    _wait_rekeyed(host, f"IKE_SA {_ends(sa)}", replaced)


def _wait_rekeyed(host: Host, what: str, replaced: Any) -> None:
    wait_for(replaced, 20, f"{host.name}: {what} is rekeyed", host.charon.log_tail, poll=0.1)

"""`make demo`: a live TCP connection survives a change of address, and is at the new one then, shown in words.

Exit status 0 only if it did, and is.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lab.addressing import Family
from lab.analysis import Kind
from lab.capture import Capture
from lab.connections import Connection, connections
from lab.topology import Lab
from lab.traffic import TcpBulk, TrafficError

GAP = 0.5
"""Seconds without any address."""
_DRAWING = """
    mobile ──── net-a  10.1.1.0/24 ────┐
       │                             router ──── net-d ──── correspondent
       └─────── net-b  10.2.2.0/24 ────┘                    {peer}
"""
_STEPS = {
    "deprecated": "old address {old} kept alive on the carrier, data flows again through IP-in-IP",
    "acknowledged": "correspondent has authorised the move (message and answer went through the tunnel)",
    "proven": "the new address {new} is proven: correspondent sends through its own tunnel",
    "filters": "new IPsec SAs and policies stand at the new address on both hosts",
    "transport": "the connection itself is at the new address, on both hosts: programs stopped, sockets moved, let go",
    "grace": "grace period over: old SAs were still accepted until now",
    "released": "old address, tunnel, old SAs and policies removed",
}
_REMAINS = "ip -4 -br addr show up; ip rule; ip route show table all | grep encap || echo no route into a tunnel"
_KINDS = {
    Kind.ESP: "ESP, native",
    Kind.ESP_IN_IPIP: "ESP inside IP-in-IP (the carrier)",
    Kind.IKE: "IKE (charon negotiating)",
    Kind.IKE_IN_IPIP: "IKE inside IP-in-IP",
}


def main() -> int:
    """Tells the story; returns the exit status."""
    say("swanroam demo: a live TCP connection survives a change of address under IPsec")
    say("setting up two hosts and a router, each with a network stack of its own; charon and swanroam on both hosts …")
    with Lab(family=Family.IPV4) as lab:
        try:
            tell(lab)
        except (AssertionError, TimeoutError) as error:
            say(f"\nTHE DEMO FAILED: {error}")
            print(lab.dump(), file=sys.stderr)
            return 1
    return 0


NATIVE = 3.0
"""Seconds for which the router is watched when all is over."""


def tell(lab: Lab) -> None:
    """The story, with a lab that is not started yet."""
    lab.start()
    lab.start_controllers({"defaults": {"grace": "2s"}})
    mobile, correspondent = lab.mobile, lab.correspondent
    mobile.controller.wait_event("peer_registered")
    old, new = mobile.address_in("net-a"), mobile.address_in("net-b")
    say(_DRAWING.format(peer=correspondent.address))

    say(f"1. mobile is {old}. All between the two is protected by ESP in transport mode, on their real addresses.")
    say("   `swanroam status` on mobile:")
    quote(mobile.controller.command("status", "--config", str(mobile.controller.config_file)).stdout)

    say("2. An ordinary program opens a TCP connection and streams in both directions; every byte is checked.")
    bulk = lab.traffic.tcp_bulk(mobile, correspondent, rate=400_000)
    time.sleep(2.0)
    before = connection(lab)

    say(f"3. The mobile host loses {old}, has no address at all for {GAP} s, then gets {new} in another network.")
    capture = lab.start_capture()
    began = time.monotonic()
    mobile.move_to("net-b", gap=GAP)
    mobile.controller.wait_event("handover_step_finished", step="transport")
    say("   What happened, seconds after the new address was there:")
    shown = show_steps(lab, ())

    say("4. The stream goes on. The program has noticed nothing but a pause, and its socket, the same one, has moved:")
    after = connection(lab)
    if after != Connection(replace(before.client, local=new), replace(before.server, remote=new)):
        raise TrafficError("the connection is not where it should be, or is another one")
    say("   Nothing uses the old address any more. So, with the connection open:")
    for host in lab.hosts:
        host.controller.wait_event("handover_finished", result="done")
    show_steps(lab, shown)
    capture.stop()
    elapsed = time.monotonic() - began
    native = lab.start_capture()
    time.sleep(NATIVE)
    native.stop()
    say("   `ip addr`, `ip rule` and routes into a tunnel on mobile:")
    quote(mobile.run(["sh", "-c", _REMAINS]).stdout)

    silence, moved = finish(bulk)
    say(
        f"5. The program closes its connection. {moved:,} bytes arrived, each one right; longest pause {silence:.2f} s,"
    )
    say(f"   {GAP} s of it without any address.")
    say(f"6. What the router between them saw in the {elapsed:.0f} s of the move:")
    router(capture, _KINDS)
    say(f"   and in {NATIVE:.0f} s after it, with the connection open:")
    router(native, {Kind.ESP: _KINDS[Kind.ESP]})
    say("\nThe connection survived, runs at the new address without a tunnel, and nothing left unprotected.")


def connection(lab: Lab) -> Connection:
    """The TCP connection as `ss` shows it on both hosts."""
    (found,) = connections(lab.mobile, lab.correspondent)
    for host, socket in ((lab.mobile, found.client), (lab.correspondent, found.server)):
        local, remote = f"{socket.local}:{socket.local_port}", f"{socket.remote}:{socket.remote_port}"
        quote(f"{host.name:14} ESTAB  {local:22} {remote:22} ino:{socket.inode}")
    return found


def show_steps(lab: Lab, shown: tuple[str, ...]) -> tuple[str, ...]:
    """The steps that were not shown yet."""
    for record in lab.mobile.controller.log_events("handover_step_finished"):
        step = record["step"]
        if step in shown:
            continue
        text = _STEPS[step].format(old=lab.mobile.address_in("net-a"), new=lab.mobile.address_in("net-b"))
        say(f"     {record['seconds']:7.3f}  {text}")
        shown = (*shown, step)
    return shown


def finish(bulk: TcpBulk) -> tuple[float, int]:
    """Ends the stream; its longest silence, and the bytes moved. Raises TrafficError for a wrong one."""
    result: Any = bulk.stop()
    result.check()
    return result.longest_silence, sum(result.moved)


def router(capture: Capture, expected: Mapping[Kind, str]) -> None:
    """What the router saw. Raises TrafficError when a packet was in clear, or of a kind that should not be there."""
    counts = capture.counts()
    for kind, name in _KINDS.items():
        say(f"     {counts[kind]:7,}  {name}")
    if others := counts.keys() - expected.keys() - {Kind.CLEAR, Kind.CLEAR_IN_IPIP, Kind.LINK}:
        raise TrafficError(f"the router saw {', '.join(kind.value for kind in others)}")
    clear = capture.clear_packets()
    say(f"     {len(clear):7,}  in clear")
    if clear:
        raise TrafficError(f"packets in clear, the first: {clear[0]}")


def say(text: str) -> None:
    print(text, flush=True)


def quote(text: str) -> None:
    for line in text.rstrip().splitlines():
        say(f"     | {line}")


if __name__ == "__main__":
    sys.exit(main())

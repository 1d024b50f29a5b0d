"""`make demo`: a live TCP connection survives a change of address, shown in words. Exit status 0 only if it did."""

import sys
import time
from typing import Any

from lab.addressing import Family
from lab.analysis import Kind
from lab.capture import Capture
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
    "grace": "grace period over: old SAs were still accepted until now",
    "released": "old address, tunnel, old SAs and policies removed",
}
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
    connection(lab)

    say(f"3. The mobile host loses {old}, has no address at all for {GAP} s, then gets {new} in another network.")
    capture = lab.start_capture()
    began = time.monotonic()
    mobile.move_to("net-b", gap=GAP)
    mobile.controller.wait_event("handover_step_finished", step="filters")
    say("   What happened, seconds after the new address was there:")
    shown = show_steps(lab, ())

    time.sleep(2.0)
    say("4. The stream goes on. The program has noticed nothing but a pause; its socket still has the old address:")
    connection(lab)
    say("   `swanroam status` on mobile:")
    quote(mobile.controller.command("status", "--config", str(mobile.controller.config_file)).stdout)

    silence, moved = finish(bulk)
    say(
        f"5. The program closes its connection. {moved:,} bytes arrived, each one right; longest pause {silence:.2f} s,"
    )
    say(f"   {GAP} s of it without any address. Nothing uses the old address any more:")
    mobile.controller.wait_event("handover_finished", result="done")
    show_steps(lab, shown)
    elapsed = time.monotonic() - began
    capture.stop()
    router(capture, elapsed)


def connection(lab: Lab) -> None:
    """The TCP connection as `ss` shows it."""
    port = "sport != :22"
    lines = lab.mobile.run(["ss", "-Htn", "state", "established", port]).stdout.splitlines()
    quote("\n".join(lines[:1]))


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


def router(capture: Capture, elapsed: float) -> None:
    """What the router saw. Raises TrafficError when a packet was in clear."""
    say(f"6. What the router between them saw in these {elapsed:.0f} s:")
    counts = capture.counts()
    for kind, name in _KINDS.items():
        say(f"     {counts[kind]:7,}  {name}")
    clear = capture.clear_packets()
    say(f"     {len(clear):7,}  in clear")
    if clear:
        raise TrafficError(f"packets in clear, the first: {clear[0]}")
    say("\nThe connection survived, and nothing left unprotected.")


def say(text: str) -> None:
    print(text, flush=True)


def quote(text: str) -> None:
    for line in text.rstrip().splitlines():
        say(f"     | {line}")


if __name__ == "__main__":
    sys.exit(main())

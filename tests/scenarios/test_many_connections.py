"""Many connections of one client move together, and none is lost.

SWANROAM_CONNECTIONS sets how many; `make connections-full` moves 2,000.
"""

import os
import time

import pytest

from lab.addressing import Family
from lab.capture import UNPROTECTED
from lab.topology import Lab
from lab.traffic import Program
from scenarios.native import Native
from scenarios.scenario import start

pytestmark = pytest.mark.lab

COUNT = int(os.environ.get("SWANROAM_CONNECTIONS") or 300)
OPENING = 120.0
"""Seconds for opening them all."""
MOVING = 60 + COUNT / 2
"""Seconds for moving them all, in a guest kernel that has other things to do: where `sockets.hold` is too short for it,
few go at a time, and `sockets.stopped_share` of the time."""


@pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"])
def test_many_connections_move_together(lab: Lab) -> None:
    story = start(lab, captured=UNPROTECTED)
    server = Program(lab.correspondent, "many", "listen", lab.family.value)
    port = server.answer()["port"]
    client = Program(lab.mobile, "many", "connect", lab.correspondent.address, port, COUNT, 0)
    assert client.answer(OPENING)["open"] == COUNT
    native = Native(story, port)
    assert len(native) == COUNT

    began = time.monotonic()
    lab.mobile.move_to("net-b")
    story.wait_arrived()
    took = native.wait(MOVING)
    print(f"{COUNT} connections: at the new address {took:.1f} s after the filters, {took / COUNT * 1e3:.1f} ms each")
    client.tell("use")
    used = client.answer(90)
    assert (used["wanted"], used["lost"]) == (COUNT, 0)
    record = lab.mobile.controller.wait_event("handover_step_finished", step="transport")
    print(f"all answered {used['ended'] - began:.1f} s after the move; {record['moved']} moved, {record['kept']} kept")

    client.tell("stop")
    client.wait()
    server.kill()
    story.finish()

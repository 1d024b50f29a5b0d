"""A soft move: the new address and its preferred route come first, the old address goes a second later.

Nothing of what the programs send is lost, in either direction, and nothing leaves in clear.
"""

import pytest

from lab.topology import Lab

pytestmark = pytest.mark.lab


def test_tcp_goes_on_through_a_soft_move(lab: Lab) -> None:
    lab.start_controllers({"defaults": {"grace": "2s"}})
    lab.mobile.controller.wait_event("peer_registered")
    bulk = lab.traffic.tcp_bulk(lab.mobile, lab.correspondent, rate=200_000)
    with lab.capturing() as capture:
        lab.mobile.move_to("net-b", soft=True, overlap=1.0)
        lab.mobile.controller.wait_event("handover_step_finished", 8, step="filters")
        bulk.stop().check()
        lab.mobile.controller.wait_event("handover_finished", result="done")
    assert not capture.clear_packets()

"""A soft move: the new address and its preferred route come first, the old address goes a second later.

Nothing of what the programs send is lost, in either direction, and nothing leaves in clear: neither while packets
travel in the carrier, nor when the sockets themselves get the new address, with packets of both directions under way.
The server of the UDP stream is not connected: it sends to the old address until it has heard from the new one.
"""

import pytest

from lab.topology import Lab
from scenarios.native import Native
from scenarios.scenario import start

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("transport", ["move", "keep"])
def test_nothing_is_lost_when_the_new_address_comes_first(lab: Lab, transport: str) -> None:
    story = start(lab, config={"defaults": {"transport": transport}})
    mix = story.traffic()
    native = Native(story)

    lab.mobile.move_to("net-b", soft=True, overlap=1.0)
    story.wait_moved()
    if transport == "move":
        print(f"{len(native)} sockets at the new address {native.wait():.1f} s after the filters")
    result = mix.stop()

    assert result.udp is not None
    assert not result.udp.up.lost + result.udp.down.lost, str(result.udp)
    story.finish()
    story.assert_esp_was_captured()

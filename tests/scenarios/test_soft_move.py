"""A soft move: the new address and its preferred route come first, the old address goes a second later.

Nothing of what the programs send is lost, in either direction, and nothing leaves in clear. Sockets stay on the carrier
here: a UDP packet that is under way while its socket gets another address may be lost (test_native.py).
"""

import pytest

from lab.topology import Lab
from scenarios.scenario import ON_THE_CARRIER, start

pytestmark = pytest.mark.lab


def test_nothing_is_lost_when_the_new_address_comes_first(lab: Lab) -> None:
    story = start(lab, config=ON_THE_CARRIER)
    mix = story.traffic()

    lab.mobile.move_to("net-b", soft=True, overlap=1.0)
    story.wait_moved()
    result = mix.stop()

    assert result.udp is not None
    assert not result.udp.up.lost + result.udp.down.lost, str(result.udp)
    story.finish()
    story.assert_esp_was_captured()

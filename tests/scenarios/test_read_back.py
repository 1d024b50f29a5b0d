"""Somebody takes away what is charon's: it is noticed, told with the remedy, and nothing leaves in clear meanwhile."""

import pytest

from lab.ike_config import DATA
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.agreement import rekey_child
from scenarios.scenario import start

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("what", ["state", "policy"])
def test_what_is_missing_in_the_kernel_is_told_until_it_is_back(lab: Lab, what: str) -> None:
    story = start(lab)
    mobile = lab.mobile
    peer = str(lab.correspondent.address)
    if what == "state":
        (spi,) = {sa.spi_out for sa in mobile.charon.associations() if sa.child == DATA}
        mobile.ip(f"xfrm state delete src {mobile.address} dst {peer} proto esp spi {spi:#x}")
    else:
        mobile.ip(f"xfrm policy delete dir out src {mobile.address} dst {peer}")

    record = mobile.controller.wait_event("kernel_contradicts_charon")
    assert f"CHILD_SA {DATA}" in record["detail"]
    problem = wait_for(lambda: mobile.status()["peers"][0]["problem"], 10, "status tells the problem")
    assert "swanctl --rekey --child NAME" in str(problem)
    # Nothing protects this packet, so it must not leave.
    assert mobile.run(["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", peer], check=False).returncode != 0

    (child,) = [child for sa in mobile.charon.sas() for child in sa["child-sas"].values() if child["name"] == DATA]
    rekey_child(mobile, child)
    story.finish()

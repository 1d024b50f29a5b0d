"""The metrics as the daemon's unit lets them be: another user, not dumpable, other processes out of sight; and what the
kernel's counters count."""

import os
import subprocess
import sys

import pytest

from kernel.test_privileges import AS_SERVICE, PATHS
from kernel.xfrm_namespace import ENDS, assert_not_sent, exchange, in_namespace, two_hosts
from swanroam.daemon.readings import xfrm_statistics
from swanroam.kernel.xfrm import guards
from swanroam.kernel.xfrm.constants import Action, Direction
from swanroam.kernel.xfrm.policies import add_policy, apply_owned, clear_owned, delete_policy
from swanroam.kernel.xfrm.policy import Policy
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket

pytestmark = pytest.mark.kernel

SERVE = """
# All before the files of this interpreter may be out of reach.
import asyncio, concurrent.futures.thread, encodings.ascii, encodings.idna, encodings.latin_1, urllib.request
from collections import Counter
from ipaddress import ip_address
from swanroam.config import Endpoint
from swanroam.daemon.counts import Counts
from swanroam.daemon.metrics import Reading
from swanroam.daemon.metrics_server import MetricsServer
from swanroam.daemon.readings import xfrm_statistics
from swanroam.kernel.privileges import Capability, forbid_dumping, lay_aside

forbid_dumping()
lay_aside(frozenset(Capability) - {Capability.NET_ADMIN})

async def read():
    found = xfrm_statistics()
    return Reading(Counts(), (), {}, 0, 0, Counter(), Counter(), {}, found, True, True, True, True)

async def main():
    server = MetricsServer(read)
    await server.listen(Endpoint(ip_address("127.0.0.1"), 9510))
    page = await asyncio.to_thread(lambda: urllib.request.urlopen("http://127.0.0.1:9510/metrics").read().decode())
    await server.listen(None)
    print(page)

asyncio.run(main())
"""


def test_the_service_can_serve_them_and_knows_of_itself_and_the_kernel() -> None:
    hidden = 'ip link set lo up; mount -t proc -o hidepid=invisible proc /proc; exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "-n", "sh", "-ec", hidden, "sh", "env", PATHS, *AS_SERVICE, sys.executable, "-c", SERVE],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    own = ("process_open_fds", "process_cpu_seconds_total", "process_resident_memory_bytes")
    for name in (*own, "swanroam_build_info"):
        assert f"\n{name}" in done.stdout, name
    assert 'swanroam_xfrm_errors_total{counter="XfrmOutPolBlock"} 0.0' in done.stdout


@pytest.mark.parametrize("version", [4, 6])
@in_namespace
async def test_each_packet_that_a_guard_stops_is_counted_as_is_what_others_block(version: int) -> None:
    me, peer = ENDS[version]
    others = Policy(Selector.between(me, peer), Direction.OUT, Action.BLOCK, 100_000)
    with two_hosts(version) as (_, here, there):
        async with XfrmSocket() as xfrm:
            exchange(here, there)
            counted = [blocked()]
            await apply_owned(xfrm, {guards.guard(me, peer, Direction.OUT)})
            assert_not_sent(here, there)
            counted.append(blocked())
            await clear_owned(xfrm)
            await add_policy(xfrm, others)
            assert_not_sent(here, there)
            counted.append(blocked())
            await delete_policy(xfrm, others)
            exchange(here, there)
            counted.append(blocked())

    assert counted == [0, 1, 2, 2]


def blocked() -> int:
    return xfrm_statistics()["XfrmOutPolBlock"]

"""The doorbell: charon is told of new addresses, nothing else changes; and whether the kernel can do it at all."""

from ipaddress import ip_address, ip_network

import pytest

from kernel.xfrm_namespace import in_namespace
from swanroam.kernel.xfrm import guards
from swanroam.kernel.xfrm.constants import Action, Direction, Group, Mode
from swanroam.kernel.xfrm.events import Migrated
from swanroam.kernel.xfrm.migrate import KeyManagerAddress, probe_migrate, ring_doorbell
from swanroam.kernel.xfrm.monitor import XfrmMonitor
from swanroam.kernel.xfrm.policies import OWNER, add_policy, apply_owned, dump_policies
from swanroam.kernel.xfrm.policy import Policy, Template
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket

pytestmark = pytest.mark.kernel

NEW, PEER = ip_address("10.2.0.1"), ip_address("10.3.0.1")
NEW6, PEER6 = ip_address("2001:db8:2::1"), ip_address("2001:db8:3::1")


@in_namespace
async def test_kernel_that_can_migrate_is_recognised() -> None:
    async with XfrmSocket() as xfrm:
        await probe_migrate(xfrm)
        assert await dump_policies(xfrm) == []


@pytest.mark.parametrize(("local", "remote"), [(NEW, PEER), (NEW6, PEER6)])
@pytest.mark.parametrize("mode", [Mode.TRANSPORT, Mode.TUNNEL])
@in_namespace
async def test_doorbell_announces_the_addresses_and_leaves_everything_as_it_was(local, remote, mode: Mode) -> None:
    guard = guards.guard(NEW, PEER, Direction.OUT)
    charon = Policy(Selector.between(NEW, PEER), Direction.OUT, priority=367_231, templates=(Template(7),))
    async with XfrmSocket() as xfrm, XfrmMonitor({Group.MIGRATE}) as monitor:
        await apply_owned(xfrm, {guard})
        await add_policy(xfrm, charon)
        await ring_doorbell(xfrm, reqid=7, mode=mode, local=local, remote=remote)
        event = await anext(monitor)
        assert isinstance(event, Migrated)
        assert event.key_manager == KeyManagerAddress(local=local, remote=remote)
        assert [(pair.reqid, pair.mode, pair.proto) for pair in event.migrations] == [(7, mode, 50)]
        assert set(await dump_policies(xfrm)) == {guard, charon}


@in_namespace
async def test_doorbell_rings_in_front_of_policies_for_everything() -> None:
    """A policy 0.0.0.0/0 must not be the one that the kernel finds for the bell's addresses."""
    async with XfrmSocket() as xfrm, XfrmMonitor({Group.MIGRATE}) as monitor:
        everything = Selector.between(*[ip_network("0.0.0.0/0")] * 2, user=OWNER)
        await apply_owned(xfrm, {Policy(everything, Direction.OUT, Action.BLOCK, priority=2)})
        for reqid in (1, 2):
            await ring_doorbell(xfrm, reqid=reqid, mode=Mode.TRANSPORT, local=NEW, remote=PEER)
            event = await anext(monitor)
            assert isinstance(event, Migrated)
            assert event.migrations[0].reqid == reqid


@in_namespace
async def test_bell_without_a_child_or_of_two_families_is_refused() -> None:
    async with XfrmSocket() as xfrm:
        with pytest.raises(ValueError, match="reqid 0"):
            await ring_doorbell(xfrm, reqid=0, mode=Mode.TRANSPORT, local=NEW, remote=PEER)
        with pytest.raises(ValueError, match="one address family"):
            await ring_doorbell(xfrm, reqid=1, mode=Mode.TRANSPORT, local=NEW, remote=PEER6)
        assert await dump_policies(xfrm) == []

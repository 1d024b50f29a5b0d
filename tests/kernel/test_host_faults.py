"""Each request by which a host is made ready for a handover, and through it, fails once.

`test_policy_faults` has every error, with policies alone; here are the carrier's devices, addresses, routes, rules and
filters, each request failing with another error in turn.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from socket import AF_INET, AF_INET6, if_nameindex

import pytest

from kernel.carrier_hosts import Hosts, inside
from kernel.faulty_sockets import ERRORS, Faults, FaultyRouteSocket, FaultyXfrmSocket, PolicyReader
from lab import snapshot
from swanroam.daemon import host as host_module
from swanroam.daemon.controller import HostError
from swanroam.daemon.host import LocalHost
from swanroam.daemon.translation import ANY_TRAFFIC, KernelState
from swanroam.ike.vici import ViciClient
from swanroam.kernel.xfrm.constants import Action
from swanroam.kernel.xfrm.policy import Policy, PolicyKey
from unit.fake_host import configuration
from unit.host_states import handover, judge

pytestmark = pytest.mark.lab


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    try:
        yield made
    finally:
        made.delete()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Those of all netlink sockets that a host opens."""
    made = Faults()
    for name, kind in (("XfrmSocket", FaultyXfrmSocket), ("RouteSocket", FaultyRouteSocket)):
        monkeypatch.setattr(kind, "faults", made, raising=False)
        monkeypatch.setattr(host_module, name, kind)
    return made


def local_host(directory: Path) -> LocalHost:
    return LocalHost(configuration(directory), ViciClient(directory / "vici"), [AF_INET, AF_INET6])


def error(failing: int) -> int:
    return ERRORS[failing % len(ERRORS)]


def test_a_start_that_fails_at_any_request_leaves_nothing(hosts: Hosts, faults: Faults, tmp_path: Path) -> None:
    before = snapshot.take(hosts.mobile)

    async def start(failing: int) -> None:
        host = local_host(tmp_path)
        try:
            with faults.at(failing, error(failing), lambda request: None):
                await host.__aenter__()
        except HostError:
            return
        await host.clear()
        await host.__aexit__(None, None, None)

    for failing in count(1):
        inside(hosts.mobile, lambda failing=failing: asyncio.run(start(failing)))
        assert snapshot.take(hosts.mobile) == before, f"request {failing} failed"
        if not faults.hit:
            print(f"{failing - 1} requests")
            return


@pytest.mark.parametrize("version", [4, 6])
def test_any_request_of_a_handover_fails(hosts: Hosts, faults: Faults, version: int, tmp_path: Path) -> None:
    """What was guarded and will be is so at every moment; when routes and rules are changed, all of it is."""
    before = snapshot.take(hosts.mobile)
    states = handover(version, ANY_TRAFFIC)

    async def story() -> None:
        reader = PolicyReader()
        try:
            async with local_host(tmp_path) as host:
                for old, new in pairwise([*states, states[0]]):
                    for failing in count(1):
                        await host.apply(old)
                        with faults.at(failing, error(failing), Look(reader, host, new)), suppress(HostError):
                            await host.apply(new)
                        await host.apply(new)
                        host.forget()
                        assert not await host.apply(new), f"request {failing} failed: it is not as wanted"
                        if not faults.hit:
                            print(f"{failing - 1} requests")
                            break
                await host.clear()
        finally:
            reader.close()

    inside(hosts.mobile, lambda: asyncio.run(story()))
    assert snapshot.take(hosts.mobile) == before


class Look:
    """At the policies, before each request."""

    def __init__(self, reader: PolicyReader, host: LocalHost, new: KernelState) -> None:
        self._reader = reader
        self._old = blocks(reader.owned())
        self._new = blocks(new.policies)
        own = host._plane.device_index(AF_INET6)
        self._others = [index for index, _ in if_nameindex() if index != own]

    def __call__(self, request: str) -> None:
        present = self._reader.owned()
        judge(present, self._others)
        keys = {policy.key for policy in present}
        assert self._old & self._new <= keys, f"unguarded before {request}"
        if request.startswith("rtnetlink change"):
            assert self._old | self._new <= keys, f"unguarded before {request}"


def blocks(policies: Collection[Policy]) -> set[PolicyKey]:
    return {policy.key for policy in policies if policy.action is Action.BLOCK}

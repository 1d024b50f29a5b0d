"""Each request by which the policies of a handover are set fails once, with each error that the kernel might give.

At no moment anything may leave that was guarded before and is guarded afterwards, no carrier is open before its guards
stand, and what others have is not touched. Once the cause is gone the next attempt gets there.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from socket import AddressFamily, if_nameindex

import pytest

from kernel.faulty_sockets import ERRORS, Faults, FaultyXfrmSocket, PolicyReader
from kernel.xfrm_namespace import in_namespace, ip
from swanroam.daemon.controller import HostError
from swanroam.daemon.host import LocalHost
from swanroam.daemon.translation import ANY_TRAFFIC, KernelState
from swanroam.ike.vici import ViciClient
from swanroam.kernel.carrier import Admitted, Changes, FoundCarriers
from swanroam.kernel.xfrm.constants import Action, Direction
from swanroam.kernel.xfrm.locks import LOCK
from swanroam.kernel.xfrm.policies import effective
from swanroam.kernel.xfrm.policy import Policy
from unit.fake_host import configuration
from unit.host_states import handover, is_bypass, is_clear, judge

pytestmark = pytest.mark.kernel

CARRIER = "carrier"
"""What is told as the moment at which the carrier is changed."""
NETS = {4: ("192.0.2.1/32", "192.0.2.9/32"), 6: ("2001:db8::1/128", "2001:db8::9/128")}


class NoCarrier:
    """This kernel may have no IP-in-IP: routes, rules and devices are left out, their moment is told."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._admitted: frozenset[Admitted] = frozenset()

    async def apply(self, held: object, carriers: object, admitted: Collection[Admitted], narrowed: object) -> Changes:
        self._faults.look(CARRIER)
        self._admitted = frozenset(admitted)
        return Changes()

    async def find(self) -> FoundCarriers:
        return FoundCarriers(frozenset(), frozenset(), frozenset(), self._admitted)

    def device_index(self, family: AddressFamily) -> int:
        return 1


class Observer:
    """Looks at the policies between any two requests while the host goes from one state to another."""

    def __init__(self, reader: PolicyReader, old: frozenset[Policy], new: frozenset[Policy]) -> None:
        self._reader = reader
        self._old, self._new = blocks(old), blocks(new)
        # What lets carrier packets in lets nothing out, and comes first.
        self._opened = {
            policy
            for policy in new - old
            if is_clear(policy) or (is_bypass(policy) and policy.direction is not Direction.IN)
        }
        self._closed = {policy for policy in old - new if is_bypass(policy) or is_clear(policy)}
        self._others = [index for index, _ in if_nameindex() if index != 1]

    def __call__(self, request: str) -> None:
        present = self._reader.owned()
        judge(present, self._others)
        keys = {policy.key for policy in present}
        lacking = {policy for policy in self._old | self._new if policy.key not in keys}  # else another is in its place
        assert not lacking & self._old & self._new, f"unguarded before {request}"
        if present & self._opened:
            assert not lacking & self._new, f"a way is open before its guards stand, before {request}"
        if present & self._closed:
            assert not lacking & self._old, f"guards have gone before the way that they are for, before {request}"
        if request == CARRIER:
            assert not lacking, "the carrier is changed without its guards"


def blocks(policies: Collection[Policy]) -> frozenset[Policy]:
    return frozenset(policy for policy in policies if policy.action is Action.BLOCK)


@contextmanager
def reading() -> Iterator[PolicyReader]:
    reader = PolicyReader()
    try:
        yield reader
    finally:
        reader.close()


def strangers(version: int) -> None:
    """What others have for the same packets: charon's policy, and a lock of the mover's."""
    source, destination = NETS[version]
    ip(f"xfrm policy add src {source} dst {destination} dir out priority 360000 tmpl proto esp mode transport reqid 1")
    ip(f"xfrm policy add src {destination} dst {source} dir in action block priority 10 uid {LOCK}", check=False)


def host_with(faults: Faults, xfrm: FaultyXfrmSocket, directory: Path) -> LocalHost:
    made = LocalHost(configuration(directory), ViciClient(directory / "vici"), [])
    xfrm.faults = faults
    made._xfrm = xfrm
    made._plane = NoCarrier(faults)  # type: ignore[assignment]
    return made


async def attempt(host: LocalHost, state: KernelState) -> bool:
    """Whether it succeeded."""
    try:
        await host.apply(state)
    except HostError:
        return False
    return True


@pytest.mark.parametrize("number", ERRORS, ids=os.strerror)
@pytest.mark.parametrize("version", [4, 6])
@in_namespace
async def test_any_request_of_a_handover_fails(version: int, number: int, tmp_path: Path) -> None:
    """Each step forward, and from the last state back to the first."""
    strangers(version)
    states = handover(version, ANY_TRAFFIC)
    faults = Faults()
    failures = 0
    with reading() as reader:
        others = reader.others()
        async with FaultyXfrmSocket() as xfrm:
            host = host_with(faults, xfrm, tmp_path)
            for old, new in pairwise([*states, states[0]]):
                failing = 1
                while failing:
                    assert await attempt(host, old)
                    there = reader.owned()
                    look = Observer(reader, there, new.policies | host._carried(new) | host._uncarried(new))
                    with faults.at(failing, number, look):
                        failures += not await attempt(host, new)
                    look("the end")
                    assert await attempt(host, new)
                    assert not await host.apply(new), "what is as wanted is changed"
                    assert reader.owned() == effective(host._uncarried(new), host._carried(new))
                    assert reader.others() == others
                    failing = failing + 1 if faults.hit else 0
    assert failures > len(states)

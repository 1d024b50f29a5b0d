"""In which order things are done.

In the kernel, where a carrier's bypass and clear packets inside it are never there at the same time, not even between
two steps; and by charon, which is told to move to one address pair at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from socket import AddressFamily
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swanroam.daemon import clearing as clearing_module
from swanroam.daemon import host as host_module
from swanroam.daemon.clearing import clear_host
from swanroam.daemon.controller import HostError
from swanroam.daemon.host import LocalHost
from swanroam.daemon.migrations import Migrations
from swanroam.daemon.translation import ANY_TRAFFIC, KernelState, ProtectedTraffic
from swanroam.ike.migrate import AddressPair, OvertakenError
from swanroam.ike.vici import ViciClient
from swanroam.kernel.carrier import Admitted, Changes, FoundCarriers
from swanroam.kernel.xfrm import policies as policies_module
from swanroam.kernel.xfrm.errors import XfrmError, error_for
from swanroam.kernel.xfrm.locks import TcpTuple
from swanroam.kernel.xfrm.policies import PolicyChanges
from swanroam.kernel.xfrm.policy import Policy, PolicyKey
from swanroam.protocol.binding import Binding
from swanroam.protocol.events import FiltersEstablished, MigrateFilters
from swanroam.protocol.host_state import Crossing, Pair, host_state
from swanroam.protocol.messages import IPAddress
from unit.fake_host import configuration
from unit.host_states import DATABASE, addresses, handover, is_bypass, is_clear, judge, translated

Wanted = Callable[[], bool]
CARRIER, OTHERS = 9, (1, 2, 3)
"""Indexes of the carrier's device and of the others."""


class Kernel:
    """Policies, changed one by one in the order of `apply_owned`; every state between is kept, and judged."""

    def __init__(self) -> None:
        self.present: dict[PolicyKey, Policy] = {}
        self.steps: list[frozenset[Policy]] = []
        self.admitting: list[frozenset[Policy]] = []
        """What policies there were when the ingress of the carrier was changed."""
        self.admitted: frozenset[Admitted] = frozenset()
        self.locked: set[TcpTuple] = set()
        self.fails_after: int | None = None

    async def find(self, xfrm: object) -> set[Policy]:
        return set(self.present.values())

    async def apply(self, xfrm: object, wanted: Collection[Policy]) -> PolicyChanges:
        by_key = policies_module._by_key(wanted)
        changed = [policy for key, policy in by_key.items() if self.present.get(key) != policy]
        surplus = [policy for key, policy in self.present.items() if key not in by_key]
        for policy in chain(*policies_module._stages(changed)):
            self._step()
            self.present[policy.key] = policy
            self._look()
        for policy in chain(*reversed(policies_module._split(surplus))):
            self._step()
            del self.present[policy.key]
            self._look()
        return PolicyChanges(frozenset(changed), frozenset(), frozenset(surplus))

    async def find_locks(self, xfrm: object) -> frozenset[TcpTuple]:
        return frozenset(self.locked)

    async def remove_locks(self, xfrm: object, connections: Collection[TcpTuple]) -> None:
        self.locked -= set(connections)

    def _step(self) -> None:
        if self.fails_after is not None:
            self.fails_after -= 1
            if self.fails_after < 0:
                raise error_for(12, "set policy", "the test")

    def _look(self) -> None:
        self.steps.append(frozenset(self.present.values()))
        judge(self.present.values(), OTHERS)


class Plane:
    """The carrier, which is of no interest here but for when it is changed."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def apply(self, held: object, carriers: object, admitted: Collection[Admitted], narrowed: object) -> Changes:
        self._kernel.admitting.append(frozenset(self._kernel.present.values()))
        self._kernel.admitted = frozenset(admitted)
        return Changes()

    async def find(self) -> FoundCarriers:
        return FoundCarriers(frozenset(), frozenset(), frozenset(), self._kernel.admitted)

    def device_index(self, family: AddressFamily) -> int:
        return CARRIER


def local_host(kernel: Kernel, directory: Path) -> LocalHost:
    made = LocalHost(configuration(directory), ViciClient(directory / "vici"), [])
    made._xfrm = mock.sentinel.xfrm
    made._plane = Plane(kernel)  # type: ignore[assignment]
    return made


def apply_all(kernel: Kernel, states: Sequence[KernelState], directory: Path) -> None:
    """Every state in turn; a failure is followed by the next one, as after a restart."""

    async def run() -> None:
        host = local_host(kernel, directory)
        for state in states:
            with suppress(HostError):
                await host.apply(state)

    with (
        mock.patch.object(host_module, "find_owned", kernel.find),
        mock.patch.object(host_module, "find_locks", kernel.find_locks),
        mock.patch.object(host_module, "remove_locks", kernel.remove_locks),
        mock.patch.object(host_module, "apply_owned", kernel.apply),
        mock.patch.object(host_module, "if_nameindex", return_value=[(index, "") for index in (CARRIER, *OTHERS)]),
    ):
        asyncio.run(run())


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("traffic", [ANY_TRAFFIC, DATABASE], ids=["any", "tcp-5432"])
def test_a_whole_handover_and_back_again(version: int, traffic: frozenset[ProtectedTraffic], tmp_path: Path) -> None:
    kernel = Kernel()
    states = handover(version, traffic)
    apply_all(kernel, [*states, *reversed(states)], tmp_path)
    assert any(any(map(is_clear, step)) for step in kernel.steps)
    assert any(any(map(is_bypass, step)) for step in kernel.steps)


def test_clear_packets_are_stopped_before_the_carrier_is_changed_and_let_in_afterwards(tmp_path: Path) -> None:
    kernel = Kernel()
    states = handover(4, ANY_TRAFFIC)
    a_move_on = translated(
        host_state(
            Binding(addresses(4)[2], addresses(4)[1::-1]), Binding(addresses(4)[3]), peer_proven=None, holds=True
        )
    )
    apply_all(kernel, [*states[:4], a_move_on], tmp_path)
    assert not any(any(map(is_clear, policies)) for policies in kernel.admitting)
    assert any(any(map(is_clear, step)) for step in kernel.steps)


@pytest.mark.parametrize("version", [4, 6])
def test_what_stays_clear_inside_is_stopped_while_its_carrier_gets_other_ends(version: int, tmp_path: Path) -> None:
    a, b, c, peer = addresses(version)
    kernel = Kernel()
    for own in (Binding(b, (a,)), Binding(c, (a, b))):
        kernel.admitting.clear()
        wanted = host_state(own, Binding(peer), peer_proven=peer, holds=True, crossing=Crossing.DONE)
        apply_all(kernel, [translated(wanted)], tmp_path)
        assert not any(any(map(is_clear, policies)) for policies in kernel.admitting)
        assert any(map(is_clear, kernel.present.values()))


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_as_wanted_is_left_alone(version: int, tmp_path: Path) -> None:
    kernel = Kernel()
    for state in handover(version, ANY_TRAFFIC):
        apply_all(kernel, [state], tmp_path)
        kernel.steps.clear()
        apply_all(kernel, [state], tmp_path)
        assert not kernel.steps


def test_locks_go_with_the_addresses_that_they_are_for(tmp_path: Path) -> None:
    a, b, _, peer = addresses(4)
    kernel = Kernel()
    old, new = TcpTuple(a, 22, peer, 50000), TcpTuple(b, 22, peer, 50000)
    kernel.locked = {old, new}
    still_there, *_, released = handover(4, ANY_TRAFFIC)[1:]
    apply_all(kernel, [still_there], tmp_path)
    assert kernel.locked == {old, new}
    apply_all(kernel, [released], tmp_path)
    assert kernel.locked == {new}


def calls_of(host: LocalHost, use: Callable[[], Awaitable[object]]) -> list[str]:
    """What is made and removed, in order, by names."""
    calls = mock.Mock()
    functions = {
        name: mock.AsyncMock(return_value=set())
        for name in ("apply_owned", "clear_clones", "clear_locks", "clear_owned", "find_owned")
    }
    for name, made in (functions | {"inner": mock.AsyncMock(), "plane": mock.AsyncMock()}).items():
        setattr(calls, name, made)
    host._definitions = mock.Mock(close=mock.AsyncMock())
    host._inner, host._plane, host._xfrm = calls.inner, calls.plane, mock.sentinel.xfrm
    planes = {"CarrierPlane": lambda *_: calls.plane, "InnerPlane": lambda *_: calls.inner}
    with ExitStack() as patches:
        for module in (host_module, clearing_module):
            replaced = functions | planes | {"XfrmSocket": mock.MagicMock(), "RouteSocket": mock.MagicMock()}
            there = {name: made for name, made in replaced.items() if hasattr(module, name)}
            patches.enter_context(mock.patch.multiple(module, **there))
        asyncio.run(use())  # type: ignore[arg-type]
    return [name for name, *_ in calls.mock_calls if name != "find_owned" and "(" not in name]


def test_the_prefix_is_guarded_before_it_is_used_and_all_guards_go_last(tmp_path: Path) -> None:
    host = LocalHost(configuration(tmp_path), ViciClient(tmp_path / "vici"), [])
    assert calls_of(host, host.__aenter__) == ["apply_owned", "plane.arm", "inner.apply"]
    assert calls_of(host, host.clear) == ["inner.clear", "plane.clear", "clear_locks", "clear_owned"]
    cleanup = calls_of(host, lambda: clear_host(configuration(tmp_path)))
    assert cleanup == ["inner.clear", "plane.clear", "clear_clones", "clear_locks", "clear_owned"]


def bindings(*candidates: IPAddress) -> st.SearchStrategy[Binding]:
    return st.permutations(candidates).flatmap(
        lambda order: st.integers(1, len(order)).map(lambda length: Binding(order[0], tuple(order[1:length])))
    )


@st.composite
def states(draw: st.DrawFn) -> KernelState:
    """Any state of any constellation of one peer."""
    *own, peer = addresses(draw(st.sampled_from((4, 6))))
    wanted = host_state(
        draw(bindings(*own)),
        Binding(peer),
        peer_proven=draw(st.sampled_from((peer, None))),
        holds=draw(st.booleans()),
        crossing=draw(st.sampled_from(Crossing)),
    )
    return translated(wanted, draw(st.sampled_from((ANY_TRAFFIC, DATABASE))))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(states(), min_size=1, max_size=4), st.none() | st.integers(0, 40), states())
def test_from_any_state_to_any_other_and_after_a_failure_at_any_step(
    tmp_path: Path, sequence: list[KernelState], fails_after: int | None, last: KernelState
) -> None:
    kernel = Kernel()
    kernel.fails_after = fails_after
    with suppress(XfrmError):
        apply_all(kernel, sequence, tmp_path)
    kernel.fails_after = None
    apply_all(kernel, [last], tmp_path)
    wanted = {policy.key for policy in last.policies}
    assert wanted <= set(kernel.present)
    assert sum(map(is_clear, kernel.present.values())) == 2 * len(last.cleared)


class Migration:
    """Moves one CHILD_SA at each turn of the event loop."""

    def __init__(self) -> None:
        self.moved: list[tuple[str, str]] = []

    async def move(
        self, connection: str, identity: str, pair: AddressPair, *, data: object, control: object, wanted: Wanted
    ) -> None:
        for child in (*data, *control):  # type: ignore[misc]
            if not wanted():
                raise OvertakenError("the addresses are others by now")
            await asyncio.sleep(0)
            self.moved.append((child, str(pair.local)))


def test_a_migration_that_is_overtaken_ends_before_the_next_begins_and_is_not_reported(tmp_path: Path) -> None:
    a, b, _, peer = addresses(4)
    migration = Migration()

    async def run() -> list[object]:
        migrations = Migrations(migration, "swanroam")  # type: ignore[arg-type]
        (settings_of_peer,) = configuration(tmp_path).peers
        orders = [MigrateFilters(Pair(own, peer), data=True, control=True) for own in (a, b)]
        return await asyncio.gather(
            *(migrations.move(settings_of_peer, order, ["data", "swanroam"]) for order in orders)
        )

    assert asyncio.run(run()) == [None, FiltersEstablished(Pair(b, peer))]
    assert migration.moved[-2:] == [("data", str(b)), ("swanroam", str(b))]
    assert ("swanroam", str(a)) not in migration.moved

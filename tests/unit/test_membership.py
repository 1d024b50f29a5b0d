"""Peers that come, change and go while the controller works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from swanroam.config import Config, PeerSettings, parse_config
from swanroam.daemon.controller import HostError
from swanroam.daemon.membership import Membership, NotNowError
from swanroam.inner_address import inner_address
from swanroam.protocol.authorisation import Ground
from swanroam.protocol.events import AddressesRead
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import AddressChange, Method
from unit.fake_host import ITS, A, B, FakeHost, P, Q, Stage, configuration, on_stage

SECOND = "second.example.org"
R = ip_address("192.0.2.9")


class ServingHost(FakeHost):
    """Also told which peers there are."""

    def __init__(self) -> None:
        super().__init__()
        self.served: list[str] = []
        self.refuses = False

    async def serve(self, peers: Iterable[PeerSettings]) -> None:
        names = [peer.identity for peer in peers]
        if self.refuses and SECOND in names:
            raise HostError("no memory for a route: free some")
        self.served = names
        self.log.append(f"serve {len(self.served)}")

    async def dismiss(self, peer: PeerSettings) -> None:
        self.log.append(f"dismiss {peer.identity}")


class Change:
    """Reloads on a stage."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self.stage = stage
        self.directory = directory
        self.gone: list[str] = []
        assert isinstance(stage.host, ServingHost)
        self.host = stage.host
        self.membership = Membership(stage.controller, stage.host, lambda: None, self.gone.append)
        self.watching = asyncio.create_task(self.membership.run())

    def config(self, peers: str) -> Config:
        return parse_config(
            f"""\
identity: mobile.example.org
state_directory: {self.directory}/state
runtime_directory: {self.directory}/run
timing: {{first_retransmit: 20ms}}
defaults: {{grace: 0s}}
peers:
{peers}"""
        )

    async def to(self, peers: str) -> None:
        async with self.membership.turn:
            await self.membership.commit(await self.membership.prepare(self.config(peers)))


FIRST_PEER = f"  - {{identity: {ITS}, connection: server, name: server}}\n"
SECOND_PEER = f"  - {{identity: {SECOND}, connection: second, name: second}}\n"
OTHER = "other.example.org"
OTHER_PEER = f"  - {{identity: {OTHER}, connection: other}}\n"


def on_changing_stage(
    directory: Path, story: Callable[[Stage, Change], Awaitable[None]], host: ServingHost | None = None
) -> None:
    async def run(stage: Stage) -> None:
        change = Change(stage, directory)
        try:
            await story(stage, change)
        finally:
            change.watching.cancel()

    on_stage(directory, run, host=host or ServingHost())


async def moving(stage: Stage) -> None:
    """We have moved from A to B, and the peer agrees."""
    stage.associated((A, P))
    stage.submit(AddressesRead(A, frozenset({A})))
    await stage.until(lambda: stage.sent)
    stage.acknowledge()
    await stage.until(lambda: stage.peer.machine.managed)
    stage.submit(AddressesRead(B, frozenset({B})))
    await stage.until(lambda: stage.sent[-1].sequence > 1)
    stage.acknowledge()
    await stage.until(lambda: f"establish {Pair(B, P)}" in stage.host.log)


async def finished(stage: Stage) -> None:
    """And nothing is left of it."""
    stage.host.sockets = 0
    stage.associated((A, P), (B, P))
    await stage.until(lambda: f"release {A}" in stage.host.log)
    stage.associated((B, P))
    await stage.until(lambda: stage.host.state.held == {B})
    stage.acknowledge()
    await stage.until(lambda: stage.peer.machine.mobile.handover is None)


def test_a_new_peer_is_served_like_those_from_the_start(tmp_path: Path) -> None:
    async def story(stage: Stage, change: Change) -> None:
        await change.to(FIRST_PEER + SECOND_PEER)

        peer = stage.controller.peers[SECOND]
        stage.associated((A, R), peer=peer)
        stage.submit(AddressesRead(A, frozenset({A})), peer)
        await stage.until(lambda: stage.sent)
        assert change.host.served == [ITS, SECOND]
        assert stage.controller.peers[ITS] is stage.peer

    on_changing_stage(tmp_path, story)


def test_a_peer_of_which_nothing_is_left_goes_at_once_and_its_guards_with_it(tmp_path: Path) -> None:
    async def story(stage: Stage, change: Change) -> None:
        await moving(stage)
        await finished(stage)
        assert stage.host.state.policies
        before = len(stage.host.state.policies)

        await change.to(OTHER_PEER)

        assert list(stage.controller.peers) == [OTHER]
        assert len(stage.host.state.policies) < before
        assert not stage.host.state.pairs | stage.host.state.held
        assert change.host.served == [OTHER]
        assert f"dismiss {ITS}" in stage.host.log
        assert change.gone == [ITS]

    on_changing_stage(tmp_path, story)


def test_events_of_a_peer_that_has_gone_are_passed_over(tmp_path: Path) -> None:
    async def story(stage: Stage, change: Change) -> None:
        gone = stage.peer
        await change.to(OTHER_PEER)
        stage.associated((A, P), peer=gone)
        other = stage.controller.peers[OTHER]
        stage.associated((A, R), peer=other)
        await stage.until(lambda: other.machine.associations)

        assert not gone.machine.associations

    on_changing_stage(tmp_path, story)


def test_a_peer_that_comes_back_goes_on_with_its_sequences(tmp_path: Path) -> None:
    async def story(stage: Stage, change: Change) -> None:
        await moving(stage)
        await finished(stage)
        sequence = stage.peer.machine.mobile.sequence
        assert sequence > 1

        await change.to(OTHER_PEER)
        journal: dict[str, Any] = json.loads((tmp_path / "state" / "journal.json").read_text())
        await change.to(FIRST_PEER + OTHER_PEER)

        assert journal["peers"][ITS]["sequence"] == sequence
        again = stage.controller.peers[ITS]
        assert again is not stage.peer
        assert again.machine.mobile.sequence == sequence

    on_changing_stage(tmp_path, story)


def test_a_peer_stays_as_long_as_connections_need_its_old_address_and_may_not_move_meanwhile(tmp_path: Path) -> None:
    host = ServingHost()
    host.sockets = 1

    async def story(stage: Stage, change: Change) -> None:
        await moving(stage)
        stage.associated((A, P), (B, P))
        await stage.until(lambda: f"usage {A}" in stage.host.log)

        await change.to(OTHER_PEER)
        assert stage.peer.leaving
        assert stage.host.state.carriers
        assert change.gone == []

        stage.associated((A, P), (B, P), (B, Q))
        stage.change(1, P)
        stage.change(2, Q)
        await stage.until(lambda: stage.peer.machine.correspondent.refusals[Ground.MAY_NOT_MOVE])

        stage.associated((A, P), (B, P))
        await finished(stage)
        await stage.until(lambda: change.gone)
        assert ITS not in stage.controller.peers
        assert not stage.host.state.carriers
        assert stage.controller.counts.refused[Ground.MAY_NOT_MOVE] == 1

    on_changing_stage(tmp_path, story, host)


def test_a_peer_that_is_configured_again_before_it_has_gone_stays(tmp_path: Path) -> None:
    host = ServingHost()
    host.sockets = 1

    async def story(stage: Stage, change: Change) -> None:
        await moving(stage)
        stage.associated((A, P), (B, P))
        await change.to(OTHER_PEER)
        await change.to(FIRST_PEER + OTHER_PEER)

        assert stage.controller.peers[ITS] is stage.peer
        assert not stage.peer.leaving
        assert stage.peer.machine.settings.policy.may_move
        await finished(stage)
        assert change.gone == []

    on_changing_stage(tmp_path, story, host)


def test_a_peer_that_is_configured_again_does_not_go_while_that_is_prepared(tmp_path: Path) -> None:
    host = ServingHost()
    host.sockets = 1

    async def story(stage: Stage, change: Change) -> None:
        await moving(stage)
        stage.associated((A, P), (B, P))
        await change.to(OTHER_PEER)
        async with change.membership.turn:
            prepared = await change.membership.prepare(change.config(FIRST_PEER + OTHER_PEER))
            await finished(stage)  # now it could go
            await asyncio.sleep(60)
            await change.membership.commit(prepared)

        assert stage.controller.peers[ITS] is stage.peer
        assert change.gone == []

    on_changing_stage(tmp_path, story, host)


def test_settings_of_a_peer_count_from_now_on(tmp_path: Path) -> None:
    async def story(stage: Stage, change: Change) -> None:
        await moving(stage)
        lines = "name: office, grace: 7s, transport: keep, allow: [198.51.100.0/24]"
        await change.to(f"  - {{identity: {ITS}, connection: server, {lines}}}\n")

        settings = stage.peer.machine.settings
        assert stage.peer.settings.name == "office"
        assert stage.peer.machine.mobile.settings.grace == 7.0
        assert not stage.peer.machine.transfers.willing
        assert stage.peer.machine.correspondent.policy.allowed == (stage.peer.settings.allow[0],)
        assert not settings.transport
        assert not stage.peer.waiting

    on_changing_stage(tmp_path, story)


@pytest.mark.parametrize(
    ("line", "now"),
    [
        ("moves: peer", lambda mobile: not mobile.active),
        ("filters: migrate", lambda mobile: mobile.method is Method.MIGRATE),
    ],
)
def test_what_a_move_under_way_is_done_by_changes_when_it_is_over(
    tmp_path: Path, line: str, now: Callable[[Any], bool]
) -> None:
    async def story(stage: Stage, change: Change) -> None:
        await moving(stage)
        await change.to(f"  - {{identity: {ITS}, connection: server, {line}}}\n")
        assert stage.peer.waiting
        assert not now(stage.peer.machine.settings.mobile)
        assert A in stage.host.state.held

        stage.associated((A, P), (B, P))
        await stage.until(lambda: f"release {A}" in stage.host.log)
        stage.associated((B, P))
        await stage.until(lambda: stage.sent[-1].sequence > 2)
        stage.acknowledge()
        await stage.until(lambda: not stage.peer.waiting)
        assert now(stage.peer.machine.settings.mobile)
        assert stage.peer.history[-1].result.value == "done"

    on_changing_stage(tmp_path, story)


def test_a_host_that_may_move_now_registers_with_its_peer(tmp_path: Path) -> None:
    async def story(stage: Stage, change: Change) -> None:
        await change.to(f"  - {{identity: {ITS}, connection: server, moves: peer}}\n")
        stage.associated((A, P))
        stage.submit(AddressesRead(A, frozenset({A})))
        await stage.until(lambda: stage.peer.machine.associations)
        assert stage.sent == []

        await change.to(f"  - {{identity: {ITS}, connection: server, moves: both}}\n")
        await stage.until(lambda: stage.sent)
        assert isinstance(stage.sent[0], AddressChange)

    on_changing_stage(tmp_path, story)


def test_a_connection_is_not_exchanged_under_a_handover(tmp_path: Path) -> None:
    async def story(stage: Stage, change: Change) -> None:
        await moving(stage)
        with pytest.raises(NotNowError, match="server: its connection can't be exchanged while a handover"):
            await change.to(f"  - {{identity: {ITS}, connection: another, name: server}}\n")
        assert stage.controller.config == configuration(tmp_path)

        await finished(stage)
        await change.to(f"  - {{identity: {ITS}, connection: another, name: server}}\n")
        assert stage.peer.settings.connection == "another"

    on_changing_stage(tmp_path, story)


def test_an_inner_address_belongs_to_the_peer_that_leaves_until_it_has_gone(tmp_path: Path) -> None:
    host = ServingHost()
    host.sockets = 1

    async def story(stage: Stage, change: Change) -> None:
        await moving(stage)
        taken = inner_address(ITS, stage.controller.config.control.prefix)
        heir = f"  - {{identity: {SECOND}, connection: second, name: second, control_address: '{taken}'}}\n"
        with pytest.raises(NotNowError, match="is that of server, which has to go first: reload without second"):
            await change.to(heir)
        assert list(stage.controller.peers) == [ITS]
        assert not stage.peer.leaving

    on_changing_stage(tmp_path, story, host)


def test_what_the_kernel_refuses_leaves_the_peers_as_they_were(tmp_path: Path) -> None:
    async def story(stage: Stage, change: Change) -> None:
        change.host.refuses = True
        with pytest.raises(HostError):
            await change.to(FIRST_PEER + SECOND_PEER)

        assert list(stage.controller.peers) == [ITS]
        assert change.host.served == [ITS]
        assert stage.controller.config == configuration(tmp_path)

    on_changing_stage(tmp_path, story)


def test_a_kernel_that_fails_in_between_is_made_right_later(tmp_path: Path) -> None:
    async def story(stage: Stage, change: Change) -> None:
        await moving(stage)
        await finished(stage)
        stage.host.failure = HostError("no memory for a route: free some")
        await change.to(SECOND_PEER)
        assert stage.controller.not_applied == "no memory for a route: free some"

        stage.host.failure = None
        await stage.until(lambda: not stage.controller.not_applied)
        assert not stage.host.state.pairs
        assert SECOND in stage.controller.peers

    on_changing_stage(tmp_path, story)


def test_other_children_are_learned_anew(tmp_path: Path) -> None:
    async def story(stage: Stage, change: Change) -> None:
        stage.peer.children |= {"old": next(iter(stage.peer.children.values()))}
        await change.to(f"  - {{identity: {ITS}, connection: server, children: [data]}}\n")

        assert list(stage.peer.children) == [stage.controller.config.control.child]
        assert stage.peer.settings == replace(stage.peer.settings, children=("data",))

    on_changing_stage(tmp_path, story)

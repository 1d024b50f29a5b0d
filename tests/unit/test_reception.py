"""Who gets to be heard on the control channel, and how much of one peer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address
from pathlib import Path

from swanroam.daemon.controller import MAX_PENDING
from swanroam.daemon.reception import DATAGRAMS_AT_ONCE, Reception
from swanroam.protocol.messages import Message, PathResponse
from unit.fake_host import ITS, A, FakeHost, P, Q, Stage, configuration

SECOND = "second.example.org"
STRANGER = IPv6Address("fd53:7761:6e72::bad")
NONSENSE = PathResponse(99, bytes(8), bytes(16))


class Scene:
    """A reception in front of a controller with two peers, that does not run yet."""

    def __init__(self, directory: Path) -> None:
        extra = f"\n  - {{identity: {SECOND}, connection: second}}"
        self.stage = Stage(configuration(directory, extra), FakeHost())
        self.controller = self.stage.controller
        self.one, self.two = (self.controller.peers[identity] for identity in (ITS, SECOND))
        self.owners = {peer.settings.control_address: peer.settings.identity for peer in (self.one, self.two)}
        self.looks = 0
        peers = {peer.settings.control_address: peer for peer in (self.one, self.two)}
        self.reception = Reception(peers, self.owners.get, self._look, self.controller.receive)

    def _look(self) -> None:
        self.looks += 1

    def receive(self, sender: IPv6Address, message: Message = NONSENSE) -> str:
        return self.reception.admit(sender) or self.reception.deliver(sender, message)


def on_scene(directory: Path, story: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(30):
            await story(Scene(directory))

    asyncio.run(run())


def test_only_the_identity_that_charon_names_speaks_from_an_inner_address(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        one = scene.one.settings.control_address
        assert scene.receive(one) == ""
        assert scene.receive(STRANGER) == "unknown_sender"
        assert scene.looks == 0
        scene.owners[one] = SECOND
        assert scene.receive(one) == "unproven_sender"
        del scene.owners[one]
        assert scene.receive(one) == "unproven_sender"

    on_scene(tmp_path, story)


def test_a_sender_that_nobody_names_makes_charon_be_read_only_now_and_then(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.owners.clear()
        for _ in range(1000):
            scene.receive(scene.one.settings.control_address)
        assert scene.looks == 1

    on_scene(tmp_path, story)


def test_of_a_flood_a_bounded_number_waits_and_the_rest_is_dropped_before_it_is_read(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        one, two = (peer.settings.control_address for peer in (scene.one, scene.two))
        outcomes = Counter(scene.receive(one) for _ in range(20_000))
        assert outcomes[""] == MAX_PENDING
        assert outcomes["queue_full"] >= DATAGRAMS_AT_ONCE - MAX_PENDING
        assert outcomes["too_many"] > 10_000
        assert scene.controller._queue.qsize() == MAX_PENDING
        assert scene.receive(two) == "", "the other peer is heard all the same"

    on_scene(tmp_path, story)


def test_another_peer_waits_for_a_bounded_number_of_a_floods_messages(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        stage, one, two = scene.stage, scene.one, scene.two
        for peer, address in ((one, P), (two, Q)):
            stage.associated((A, address), peer=peer)
        for _ in range(20_000):
            scene.receive(one.settings.control_address)
        stage.change(1, Q, peer=two)
        ahead = scene.controller._queue.qsize()
        assert ahead <= MAX_PENDING + 3
        running = asyncio.create_task(scene.controller.run())
        await stage.until(lambda: two.machine.managed)
        assert one.pending == 0, "what was handled makes room"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    on_scene(tmp_path, story)

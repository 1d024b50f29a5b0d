"""What the scenarios about IKE alone share: the filter method on the mobile host, and what both charons say."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import pytest

from lab.addressing import IPAddress
from lab.topology import Lab
from swanroam.ike.associations import IkeSa, Mode, list_ike_sas
from swanroam.ike.definitions import read_definitions
from swanroam.ike.messages import IkeError
from swanroam.ike.renegotiate import Renegotiate
from swanroam.ike.vici import ViciClient

CONNECTION = "peer-correspondent"
BOTH = frozenset({"data", "swanroam"})


class Parties:
    """The method on the mobile host, and what both charons say."""

    def __init__(self, lab: Lab, *, time_limit: float = 10.0) -> None:
        self.lab = lab
        self.old, self.new = lab.mobile.address_in("net-a"), lab.mobile.address_in("net-b")
        self.peer = lab.correspondent.address
        self.identity = lab.correspondent.identity
        self.mobile = ViciClient(lab.mobile.charon.socket)
        self.correspondent = ViciClient(lab.correspondent.charon.socket)
        definitions = partial(read_definitions, environment=lab.mobile.charon.environment)
        self.method = Renegotiate(self.mobile, definitions, time_limit=time_limit)

    async def establish(self, local: IPAddress | None = None) -> IkeSa:
        return await self.method.establish(CONNECTION, self.identity, local or self.new, self.peer, BOTH)

    async def find(self) -> tuple[IkeSa, ...]:
        return await self.method.find(CONNECTION, self.identity)

    async def connections(self) -> object:
        return (await self.mobile.request("get-conns"))["conns"]

    def pings(self, source: IPAddress, destination: IPAddress) -> bool:
        arguments = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", "-I", str(source), str(destination)]
        return self.lab.mobile.run(arguments, check=False).returncode == 0

    def all_ping(self, *sources: IPAddress) -> bool:
        """Through the data children of these addresses, and through the control child."""
        inner = self.lab.mobile.inner_address, self.lab.correspondent.inner_address
        return all(self.pings(*pair) for pair in [*((source, self.peer) for source in sources), inner])


def scenario(parties: Parties, story: Callable[[Parties], Awaitable[None]]) -> None:
    """Run a story; the clients are closed after it."""

    async def run() -> None:
        async with parties.mobile, parties.correspondent:
            await story(parties)

    asyncio.run(run())


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.05)
    assert await condition(), what


def children(ike_sa: IkeSa) -> set[tuple[str, Mode]]:
    return {(child.name, child.mode) for child in ike_sa.children if child.is_usable}


def enter_second_network(lab: Lab) -> Lab:
    """The mobile host in two networks, the hosts with the inner addresses that their controllers would give them."""
    lab.start()
    lab.mobile.add_address("net-b")
    for host in lab.hosts:
        host.ip(f"-6 addr add {host.inner_address}/128 dev lo nodad")
    return lab


def assert_attempt_fails_without_a_trace(
    lab: Lab, said: str, *, time_limit: float = 10.0, during: AbstractContextManager[None] | None = None
) -> None:
    async def story(parties: Parties) -> None:
        (old,) = await parties.find()
        with during or nullcontext(), pytest.raises(IkeError, match=said):
            await parties.establish()
        (left,) = await parties.find()
        assert left.unique_id == old.unique_id
        assert children(left) == children(old)
        assert len(await list_ike_sas(parties.mobile, noblock=False)) == 1
        assert await parties.connections() == [CONNECTION]
        assert parties.all_ping(parties.old)

    scenario(Parties(lab, time_limit=time_limit), story)

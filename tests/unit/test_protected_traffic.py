"""What guards have to cover: everything that the peer's CHILD_SAs protect, or protected once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from swanroam.daemon.charon import CharonWatch
from swanroam.daemon.translation import ANY_TRAFFIC, ProtectedTraffic
from swanroam.ike.associations import ChildSa, ChildState, Endpoint, IkeSa, IkeState, Mode
from swanroam.ike.selectors import TrafficSelector
from swanroam.ike.vici import ViciClient
from unit.fake_host import ITS, A, FakeHost, P, Stage, configuration

TCP, UDP = ProtectedTraffic(6), ProtectedTraffic(17)


def protecting(*protocols: str) -> IkeSa:
    """An IKE_SA with a transport-mode child for each of these protocols."""
    children = tuple(
        ChildSa(
            name=f"data-{protocol}",
            unique_id=number,
            reqid=number,
            state=ChildState.INSTALLED,
            mode=Mode.TRANSPORT,
            protocol="ESP",
            local_ts=(TrafficSelector.parse(f"{A}/32[{protocol}]"),),
            remote_ts=(TrafficSelector.parse(f"{P}/32[{protocol}]"),),
        )
        for number, protocol in enumerate(protocols, 1)
    )
    return IkeSa(
        name="server",
        unique_id=1,
        state=IkeState.ESTABLISHED,
        version=2,
        local=Endpoint(A, 4500, "mobile.example.org"),
        remote=Endpoint(P, 4500, ITS),
        initiator=True,
        children=children,
    )


def test_what_was_protected_once_stays_guarded(tmp_path: Path) -> None:
    async def run() -> None:
        there: list[IkeSa] = []

        async def read_back() -> tuple[Sequence[IkeSa], dict[int, list[str]]]:
            return there, {}

        config = configuration(tmp_path)
        stage = Stage(config, FakeHost())
        watch = CharonWatch(ViciClient(config.vici_socket), stage.controller, read_back)

        async def protected(*ike_sas: IkeSa) -> frozenset[ProtectedTraffic]:
            there[:] = ike_sas
            await watch.read()
            return stage.peer.protected

        assert await protected() == ANY_TRAFFIC, "as long as nothing is known"
        assert await protected(protecting("tcp")) == {TCP}
        assert await protected(protecting("udp")) == {TCP, UDP}
        assert await protected(protecting()) == {TCP, UDP}
        assert await protected() == {TCP, UDP}

    asyncio.run(run())

"""`swanroam move`, on the daemon's side: which orders are taken, and why others are not."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from swanroam.daemon.addresses import AddressFollower
from swanroam.daemon.api import RequestError
from swanroam.kernel.addresses import HostAddresses, LocalAddress
from swanroam.protocol.events import AddressesRead
from swanroam.protocol.messages import IPAddress
from unit.fake_host import ITS, A, B, P, Stage, on_stage


def follower(stage: Stage, *addresses: IPAddress, **flags: Any) -> AddressFollower:
    """Of a host that has these addresses."""
    made = AddressFollower(stage.controller.config.addresses, stage.controller)
    local = frozenset(LocalAddress(address, 24, "eth0", 2, scope=0, **flags) for address in addresses)
    made._host = HostAddresses(local)
    stage.controller.own_addresses = frozenset(addresses)
    return made


async def registered(stage: Stage) -> None:
    stage.associated((A, P))
    stage.submit(AddressesRead(A, frozenset({A, B})))
    await stage.until(lambda: stage.sent)
    stage.acknowledge()
    await stage.until(lambda: stage.peer.machine.managed)


def order(address: object, peer: object = None) -> dict[str, Any]:
    return {"command": "move", "address": address, "peer": peer}


def test_an_order_stands_until_it_is_taken_back(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        addresses = follower(stage, A, B)
        assert await addresses.order(order(str(B))) == {"peers": ["server"]}
        assert addresses.pinned(stage.peer) == str(B)
        assert await addresses.order(order("auto", "server")) == {"peers": ["server"]}
        assert addresses.pinned(stage.peer) is None

    on_stage(tmp_path, story)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (
            order("192.0.2.77"),
            r"192\.0\.2\.77 is not a usable address of this host; it has: 192\.0\.2\.1, ",
        ),
        (order("nonsense"), "'nonsense' is not an IP address"),
        (order(None), "'None' is not an IP address"),
        (order(["192.0.2.2"]), "is not an IP address"),
        (order(str(B), "nobody"), "no peer is called 'nobody'; there are: server"),
        (order("2001:db8::7"), "server is reached by IPv4: 2001:db8::7 is another family"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(tmp_path: Path, request_: dict[str, Any], said: str) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        addresses = follower(stage, A, B, *([] if "::" not in str(request_) else [ip_address("2001:db8::7")]))
        with pytest.raises(RequestError, match=said):
            await addresses.order(request_)
        assert addresses.pinned(stage.peer) is None

    on_stage(tmp_path, story)


def test_an_address_that_is_not_proven_unique_yet_is_refused(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        with pytest.raises(RequestError, match="is not a usable address"):
            await follower(stage, B, tentative=True).order(order(str(B)))

    on_stage(tmp_path, story)


def test_before_the_peer_has_answered_nothing_is_ordered(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.associated((A, P))
        with pytest.raises(RequestError, match="server has not answered yet"):
            await follower(stage, A, B).order(order(str(B)))

    on_stage(tmp_path, story)


def test_towards_a_peer_that_alone_moves_there_is_no_move(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        addresses = follower(stage, A, B)
        with pytest.raises(RequestError, match="no peer is configured towards which this host may move"):
            await addresses.order(order(str(B)))
        with pytest.raises(RequestError, match=r"server: the configuration lets only the peer move \(moves: peer\)"):
            await addresses.order(order(str(B), "server"))

    on_stage(tmp_path, story, peer="moves: peer")


def test_of_several_peers_those_move_that_can(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        addresses = follower(stage, A, B)
        assert await addresses.order(order(str(B))) == {"peers": ["server"]}
        other = stage.controller.peers["absent.example.org"]
        assert addresses.pinned(stage.peer) == str(B)
        assert addresses.pinned(other) is None

    on_stage(tmp_path, story, peer="\n  - {identity: absent.example.org, connection: absent, name: absent}")


def test_a_peer_may_be_named_by_its_identity(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        assert await follower(stage, A, B).order(order(str(B), ITS)) == {"peers": ["server"]}

    on_stage(tmp_path, story)

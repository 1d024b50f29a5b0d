"""Who sent a control message: the identity that charon authenticated, and nobody else (RFC 4555 §5.1-5.2)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from swanroam.config import Config
from swanroam.daemon.charon import CharonWatch
from swanroam.daemon.host import LocalHost
from swanroam.daemon.run import _Daemon
from swanroam.ike.associations import IkeSa
from swanroam.ike.vici import ViciClient
from swanroam.protocol.codec import encode
from swanroam.protocol.events import MessageReceived
from swanroam.protocol.messages import HANDOVER_SIZE, NONCE_SIZE, PathResponse
from unit.child_sas import CONTROL, IKE, selectors
from unit.fake_host import ITS, FakeCharon, FakeHost, Stage, configuration

OTHER = "other.example.org"
MESSAGE = PathResponse(1, bytes(HANDOVER_SIZE), bytes(NONCE_SIZE))


def ike_sa(identity: str, *inner: IPv6Address) -> IkeSa:
    """charon has one with this identity, whose control CHILD_SA is for these inner addresses."""
    remote_ts = selectors(*(f"{address}/128" for address in inner))
    remote = replace(IKE.remote, identity=identity)
    return replace(IKE, remote=remote, children=(replace(CONTROL, remote_ts=remote_ts),))


def owners(directory: Path, inner: IPv6Address, *ike_sas: IkeSa) -> str | None:
    """Whose the inner address is, once these IKE_SAs were read."""

    async def run() -> str | None:
        config = configuration(directory)
        stage = Stage(config, FakeHost())
        watch = CharonWatch(ViciClient(config.vici_socket), stage.controller, FakeCharon(ike_sas))
        assert watch.owner(inner) is None, "nothing was read yet"
        await watch.read()
        return watch.owner(inner)

    return asyncio.run(run())


def inner_address(config: Config, identity: str) -> IPv6Address:
    return next(peer.control_address for peer in config.peers if peer.identity == identity)


def test_an_inner_address_is_of_the_identity_that_charon_authenticated(tmp_path: Path) -> None:
    its = inner_address(configuration(tmp_path), ITS)
    assert owners(tmp_path, its, ike_sa(ITS, its)) == ITS
    assert owners(tmp_path, its, ike_sa(OTHER, its)) == OTHER
    assert owners(tmp_path, its, ike_sa(ITS, IPv6Address("fd53::1"))) is None
    assert owners(tmp_path, its) is None


def test_an_inner_address_that_two_identities_have_is_nobodys(tmp_path: Path) -> None:
    its = inner_address(configuration(tmp_path), ITS)
    assert owners(tmp_path, its, ike_sa(ITS, its), ike_sa(OTHER, its)) is None
    assert owners(tmp_path, its, ike_sa(ITS, its), ike_sa(OTHER, IPv6Address("fd53::1"), its)) is None
    assert owners(tmp_path, its, ike_sa(ITS, its), ike_sa(ITS, its)) == ITS


@pytest.mark.parametrize(
    ("claimed_by", "dropped"),
    [(ITS, ""), (OTHER, "unproven_sender"), (None, "unproven_sender")],
    ids=["its own", "another's", "nobody's"],
)
def test_only_what_the_owner_of_the_inner_address_sends_reaches_its_machine(
    tmp_path: Path, claimed_by: str | None, dropped: str
) -> None:
    async def run() -> None:
        config = configuration(tmp_path)
        config.state_directory.mkdir()
        its = inner_address(config, ITS)
        client = ViciClient(config.vici_socket)
        daemon = _Daemon(config, Path("/etc/swanroam/swanroam.yaml"), client, LocalHost(config, client, []))
        found = [ike_sa(claimed_by, its)] if claimed_by else []
        daemon._watch._associations = FakeCharon(found)
        await daemon._watch.read()
        heard = []
        daemon._controller.submit = lambda peer, event: heard.append((peer.settings.identity, event))  # type: ignore[method-assign]
        datagram, port = encode(MESSAGE), config.control.port
        assert daemon._channel._take(datagram, str(its), port) == dropped
        assert heard == ([] if dropped else [(ITS, MessageReceived(MESSAGE))])

        assert daemon._channel._take(datagram, "fd53::9", port) == "unknown_sender"
        assert len(heard) == (not dropped)

    asyncio.run(run())

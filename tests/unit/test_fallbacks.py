"""Where a peer may be found: from the configuration or the connection, by names that are asked for each time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, EAI_AGAIN, gaierror
from typing import Any

import pytest
from structlog.testing import capture_logs

from swanroam.config import PeerSettings
from swanroam.daemon import fallbacks as fallbacks_module
from swanroam.daemon.fallbacks import MAX_ADDRESSES, Fallbacks
from swanroam.ike.definitions import ConnectionDefinition, DefinitionError, Definitions
from swanroam.protocol.events import ResolveFallbacks
from swanroam.protocol.messages import IPAddress

P, Q, R = (ip_address(text) for text in ("198.51.100.1", "198.51.100.2", "198.51.100.3"))
SIX = ip_address("2001:db8::1")
PEER = PeerSettings("server.example.org", "server", ip_address("fd53::1"), "server")  # type: ignore[arg-type]


def resolved(
    peer: PeerSettings = PEER,
    *,
    names: dict[str, list[IPAddress]] | None = None,
    remote_addrs: tuple[str, ...] = (),
    version: int = 4,
    lookup: Callable[..., list[Any]] | None = None,
) -> tuple[IPAddress, ...]:
    """What comes of it, with these names in the DNS and a connection with these `remote_addrs`."""

    async def definitions() -> Definitions:
        message = {"remote_addrs": [text.encode() for text in remote_addrs]}
        return Definitions({"server": ConnectionDefinition("server", message)})

    def ask(name: str, port: None, *, family: int, type: int) -> list[Any]:  # noqa: A002 - getaddrinfo's name
        known = (names or {}).get(name)
        if known is None:
            raise gaierror(EAI_AGAIN, "Temporary failure in name resolution")
        of_family = [address for address in known if (AF_INET if address.version == 4 else AF_INET6) == family]
        return [(family, type, 17, "", (str(address), 0)) for address in of_family]

    return asyncio.run(Fallbacks(definitions, lookup or ask).resolve(peer, ResolveFallbacks(version))).addresses


def test_the_connection_says_where_unless_the_configuration_does() -> None:
    names = {"a.example.org": [Q], "b.example.org": [R]}
    assert resolved(names=names, remote_addrs=("198.51.100.1", "a.example.org")) == (P, Q)
    assert resolved(replace(PEER, fallback=("b.example.org",)), names=names, remote_addrs=("198.51.100.1",)) == (R,)
    assert resolved(replace(PEER, fallback=()), names=names, remote_addrs=("198.51.100.1",)) == ()


def test_what_is_no_address_of_a_host_is_left_out() -> None:
    everything = ("%any", "%any6", "198.51.100.0/24", "198.51.100.1-198.51.100.9", "198.51.100.3", "%dyn.example.org")
    assert resolved(remote_addrs=everything) == (R,)


def test_only_the_family_that_is_asked_for_counts() -> None:
    names = {"a.example.org": [P, SIX]}
    peer = replace(PEER, fallback=("a.example.org", Q, ip_address("2001:db8::2")))
    assert resolved(peer, names=names) == (P, Q)
    assert resolved(peer, names=names, version=6) == (SIX, ip_address("2001:db8::2"))


def test_a_name_with_very_many_addresses_counts_only_for_some_each_once() -> None:
    many = [ip_address(f"203.0.113.{number}") for number in range(1, 200)]
    peer = replace(PEER, fallback=(Q, "many.example.org"))
    assert resolved(peer, names={"many.example.org": [many[0], *many]}) == (Q, *many[: MAX_ADDRESSES - 1])


def test_a_name_that_is_not_there_is_told_and_the_others_count() -> None:
    with capture_logs() as logs:
        assert resolved(replace(PEER, fallback=("none.example.org", Q))) == (Q,)
    assert [(entry["event"], entry["name"]) for entry in logs] == [("fallback_not_resolved", "none.example.org")]
    assert "Temporary failure" in logs[0]["error"]


def test_a_resolver_that_hangs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the loop, nor who asked, nor the end: `asyncio.run` returns while the resolver still hangs."""
    monkeypatch.setattr(fallbacks_module, "RESOLVE_LIMIT", 0.05)
    hangs = threading.Event()
    over = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        hangs.wait()
        over.set()
        return []

    with capture_logs() as logs:
        assert resolved(replace(PEER, fallback=("slow.example.org", Q)), lookup=hang) == (Q,)
    assert logs[0]["error"] == "no answer within 0.05 s"
    assert not over.is_set()
    hangs.set()
    assert over.wait(10)


def test_a_connection_that_cannot_be_read_leads_nowhere() -> None:
    async def definitions() -> Definitions:
        raise DefinitionError("no swanctl")

    with capture_logs() as logs:
        assert asyncio.run(Fallbacks(definitions).resolve(PEER, ResolveFallbacks(4))).addresses == ()
    assert logs[0]["event"] == "connections_not_read"

"""Datagrams that come while connected UDP sockets get other addresses, and after: none is lost, in a running kernel."""

from __future__ import annotations

import sys
import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from kernel.mover_hosts import (
    NEW,
    NEW6,
    OLD,
    OLD6,
    PATIENCE,
    PEER,
    PEER6,
    SERVER_PORT,
    Host,
    Mover,
    Pair,
    Program,
    until,
)
from swanroam.kernel.sock_diag import SocketProtocol
from swanroam.transport.orders import Entry, Place

pytestmark = pytest.mark.kernel

Address = IPv4Address | IPv6Address
THIRD = ip_address("10.0.0.4")
PORT = 6000
PROGRAM = Path(__file__).parent / "datagram_programs.py"


def start(host: Host, *arguments: object) -> Program:
    program = host.start(sys.executable, "-S", str(PROGRAM), *map(str, arguments))
    assert program.line().startswith("up ")
    return program


def between(old: Address, peer: Address, new: Address) -> Entry:
    """The client's, as the mobile host sees it."""
    return Entry(SocketProtocol.UDP, old, PORT, peer, SERVER_PORT, new, peer)


def seen_by_the_peer(entry: Entry) -> Entry:
    return Entry(entry.protocol, entry.remote, SERVER_PORT, entry.local, PORT, entry.new_remote, entry.new_local)


def rebuild(mover: Mover, entry: Entry) -> int:
    """Up to where the socket is at its new addresses and its program still held; the transfer's number."""
    transfer = mover.next_transfer()
    stopped = mover.stop(transfer, [entry], hold_seconds=PATIENCE)
    assert not stopped.refusals, stopped
    assert mover.rebuild(transfer, {}).done == (0,)
    return transfer


def passes(host: Host) -> int:
    return host.start("ip", "xfrm", "policy").process.communicate()[0].count("mark 0x73777073")


@pytest.mark.both
@pytest.mark.parametrize(("old", "new", "peer"), [(OLD, NEW, PEER), (OLD6, NEW6, PEER6)], ids=["IPv4", "IPv6"])
def test_what_comes_for_the_old_address_follows_the_socket_past_what_the_new_one_demands(
    old: Address, new: Address, peer: Address
) -> None:
    with Pair() as hosts:
        hosts.steer(old)
        client, server = start(hosts.mobile, "", PORT, peer, SERVER_PORT), start(hosts.peer, peer, SERVER_PORT)
        hosts.steer(new)
        hosts.mobile.ip(f"xfrm policy add src {peer} dst {new} dir in action block priority 100")
        entry, mover = between(old, peer, new), hosts.mobile.mover()
        transfer = rebuild(mover, entry)
        assert server.ask(f"to {old} {PORT} held") == "sent"
        mover.go(transfer)
        assert client.ask("read") == "held"
        assert server.ask(f"to {old} {PORT} {'odd' * 333}") == "sent"
        assert client.ask("read") == ("odd" * 333)[:100]
        assert mover.where(entry) is Place.NEW
        # What is not protected, and comes from the wire, has no pass; nor has what somebody else sends to the old one.
        assert passes(hosts.mobile) == 1
        assert server.ask(f"to {new} {PORT} unprotected") == "sent"
        assert start(hosts.peer, peer, 0).ask(f"to {old} {PORT} a_stranger's") == "sent"
        assert server.ask(f"to {old} {PORT} last") == "sent"
        assert client.ask("read") == "last"
        assert client.ask("empty") == "yes"


def test_datagrams_are_handed_on_for_some_seconds_and_nothing_remains() -> None:
    with Pair() as hosts:
        client, server = start(hosts.mobile, "", PORT, PEER, SERVER_PORT), start(hosts.peer, PEER, SERVER_PORT)
        hosts.steer(NEW)
        mover = hosts.mobile.mover()
        mover.go(rebuild(mover, between(OLD, PEER, NEW)))
        began = time.monotonic()
        assert server.ask(f"to {OLD} {PORT} early") == "sent"
        assert client.ask("read") == "early"
        mover.wait_ended()
        assert time.monotonic() - began > 5.0
        assert passes(hosts.mobile) == 0
        assert server.ask(f"to {OLD} {PORT} late") == "sent"
        assert server.ask(f"to {NEW} {PORT} native") == "sent"
        assert client.ask("read") == "native"


def test_a_socket_that_goes_back_has_lost_nothing_and_gets_nothing_twice() -> None:
    with Pair() as hosts:
        client, server = start(hosts.mobile, "", PORT, PEER, SERVER_PORT), start(hosts.peer, PEER, SERVER_PORT)
        hosts.steer(NEW)
        mover = hosts.mobile.mover()
        transfer = rebuild(mover, between(OLD, PEER, NEW))
        assert server.ask(f"to {OLD} {PORT} one") == "sent"
        hosts.steer(OLD)
        assert not mover.go(transfer, back=(0,)).refusals
        assert server.ask(f"to {OLD} {PORT} two") == "sent"
        assert [client.ask("read"), client.ask("read"), client.ask("empty")] == ["one", "two", "yes"]
        until(lambda: passes(hosts.mobile) == 0)


def test_datagrams_follow_through_several_moves_and_back_to_where_they_were_sent() -> None:
    with Pair() as hosts:
        client, server = start(hosts.mobile, "", PORT, PEER, SERVER_PORT), start(hosts.peer, PEER, SERVER_PORT)
        hosts.mobile.ip(f"address add {THIRD}/24 dev wire")
        mover = hosts.mobile.mover()
        visited: list[Address] = [OLD]
        for there in (NEW, THIRD, OLD, NEW):
            hosts.steer(there)
            transfer = rebuild(mover, between(visited[-1], PEER, there))
            visited.append(there)
            sent = [f"{address}" for address in dict.fromkeys(visited)]
            assert [server.ask(f"to {address} {PORT} {address}") for address in sent] == ["sent"] * len(sent)
            mover.go(transfer)
            assert sorted(client.ask("read") for _ in sent) == sorted(sent)
            assert client.ask("empty") == "yes"


@pytest.mark.parametrize("connected", [True, False], ids=["both connected", "server not connected"])
def test_streams_both_ways_lose_nothing_and_double_nothing_in_ten_moves(*, connected: bool) -> None:
    with Pair() as hosts:
        client = start(hosts.mobile, "", PORT, PEER, SERVER_PORT)
        server = start(hosts.peer, *((PEER, SERVER_PORT, OLD, PORT) if connected else ("", SERVER_PORT)))
        mobile, peer = hosts.movers()
        for program in (server, client):
            assert program.ask("stream") == "ok"
        here, there = OLD, NEW
        for _ in range(10):
            hosts.steer(there)
            entry = between(here, PEER, there)
            one, two = mobile.next_transfer(), peer.next_transfer()
            mobile.stop(one, [entry], hold_seconds=PATIENCE)
            if connected:  # as a leader and a follower do it
                peer.stop(two, [seen_by_the_peer(entry)], hold_seconds=PATIENCE)
                assert peer.rebuild(two, {}).done == (0,)
            assert mobile.rebuild(one, {}).done == (0,)
            mobile.go(one)
            if connected:
                peer.go(two)
            here, there = there, here
        sent = client.ask("quiet"), server.ask("quiet")
        assert min(map(int, sent)) > 20
        assert server.ask(f"missing {sent[0]}") == "[] 0"
        assert client.ask(f"missing {sent[1]}") == "[] 0"


def test_what_the_mobile_host_has_sent_from_its_old_address_follows_the_peers_socket() -> None:
    with Pair() as hosts:
        client, server = (
            start(hosts.mobile, "", PORT, PEER, SERVER_PORT),
            start(hosts.peer, PEER, SERVER_PORT, OLD, PORT),
        )
        hosts.peer.ip(f"xfrm policy add src {NEW} dst {PEER} dir in action block priority 100")
        mover = hosts.peer.mover()
        transfer = rebuild(mover, seen_by_the_peer(between(OLD, PEER, NEW)))
        assert client.ask("send one") == "sent"
        mover.go(transfer)
        assert client.ask("send two") == "sent"
        assert [server.ask("read"), server.ask("read"), server.ask("empty")] == ["one", "two", "yes"]


def test_what_stands_in_for_a_socket_is_no_socket_of_the_host() -> None:
    with Pair() as hosts:
        start(hosts.mobile, "", PORT, PEER, SERVER_PORT)
        hosts.steer(NEW)
        entry, mover = between(OLD, PEER, NEW), hosts.mobile.mover()
        mover.go(rebuild(mover, entry))
        listed = hosts.mobile.start("ss", "-Huan").process.communicate()[0]
        assert f"{OLD}:{PORT}" in listed  # the kernel has it
        found = mover.inspect([entry, entry.reversed])
        assert dict(found.found) == {0: Place.NEW, 1: Place.OLD}
        assert dict(found.refusals) == {}

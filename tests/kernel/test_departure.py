"""`swanroam leave`: which way is left when an interface goes, asked of the running kernel."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from kernel.fresh_namespace import in_fresh_namespace, ip
from kernel.own_thread import NEW_NETWORK, in_own_thread
from swanroam.cli import leave, move
from swanroam.cli.client import ClientError
from swanroam.cli.exits import Exit
from swanroam.cli.main import main
from swanroam.kernel.addresses import AddressSelection
from swanroam.kernel.departure import DepartureError, Way, addresses_of, ways_without

pytestmark = pytest.mark.kernel

PEER = IPv4Address("203.0.113.9")
PEER6 = IPv6Address("2001:db8:9::9")
CABLE = IPv4Address("192.0.2.1")
WIFI = IPv4Address("198.51.100.1")
MOBILE = IPv4Address("198.51.100.129")

THREE_NETWORKS = (
    *(f"link add name {name} type veth peer name {name}-far" for name in ("cable", "wifi", "wwan")),
    *(f"link set {name} up" for name in ("cable", "cable-far", "wifi", "wifi-far", "wwan", "wwan-far")),
    f"address add {CABLE}/24 dev cable",
    f"address add {WIFI}/25 dev wifi",
    f"address add {MOBILE}/25 dev wwan",
    "address add 2001:db8:1::1/64 dev cable nodad",
    "address add 2001:db8:2::1/64 dev wifi nodad",
    "route add default dev cable metric 100",
    "route add default dev wifi metric 600",
    "route add default dev wwan metric 700",
    "route add ::/0 dev cable metric 100",
    "route add ::/0 dev wifi metric 600",
)


def with_three_networks(steps: Callable[[], Awaitable[None]], *further: str) -> None:
    async def run() -> None:
        ip(*THREE_NETWORKS, *further)
        await steps()

    in_fresh_namespace(run)


def test_the_others_are_ways_by_their_metric_in_both_families() -> None:
    async def steps() -> None:
        assert await ways_without("cable", PEER, AddressSelection()) == [
            Way(WIFI, "wifi", 600),
            Way(MOBILE, "wwan", 700),
        ]
        (way,) = await ways_without("cable", PEER6, AddressSelection())
        assert (way.source, way.interface) == (ip_address("2001:db8:2::1"), "wifi")

    with_three_networks(steps)


def test_the_configured_order_of_interfaces_goes_before_the_metric() -> None:
    async def steps() -> None:
        first, second = await ways_without("cable", PEER, AddressSelection(), ("eth*", "ww*"))
        assert (first.interface, second.interface) == ("wwan", "wifi")

    with_three_networks(steps)


def test_an_interface_that_is_down_without_route_or_does_not_count_is_no_way() -> None:
    async def steps() -> None:
        for selection in (
            AddressSelection(ignore_interfaces=("ww*",)),
            AddressSelection(ignore=(ip_network("198.51.100.128/25"),)),
        ):
            assert [way.interface for way in await ways_without("cable", PEER, selection)] == ["wifi"]
        ip("link set wifi-far down")
        assert [way.interface for way in await ways_without("cable", PEER, AddressSelection())] == ["wwan"]
        ip("route del default dev wwan")
        # An address alone does not lead anywhere, although IPv4 would take the peer for a neighbour.
        assert await ways_without("cable", PEER, AddressSelection()) == []

    with_three_networks(steps)


def test_addresses_are_those_of_the_interface() -> None:
    async def steps() -> None:
        assert {CABLE, ip_address("2001:db8:1::1")} <= await addresses_of("cable")
        assert WIFI not in await addresses_of("cable")
        with pytest.raises(DepartureError, match="there is no interface 'eth9'"):
            await addresses_of("eth9")

    with_three_networks(steps)


# --- the command ------------------------------------------------------------------------------------------------------


class Daemon:
    """Answers as the daemon would; whoever is ordered to move, moves at once."""

    def __init__(self, refuses: str = "") -> None:
        self.current = {"office": str(CABLE), "home": str(CABLE), "elsewhere": str(WIFI)}
        self.orders: list[dict[str, Any]] = []
        self.refuses = refuses

    def ask(self, path: Path, request: dict[str, Any]) -> dict[str, Any]:
        if request["command"] == "move":
            self.orders.append(request)
            if request["peer"] == self.refuses:
                raise ClientError("the configuration lets only the peer move (moves: peer)", Exit.FAILED)
            self.current[request["peer"]] = request["address"]
            return {"peers": [request["peer"]]}
        peers = [
            {
                "name": name,
                "own": {"current": current, "deprecated": []},
                "peer": {"current": str(PEER), "deprecated": []},
                "handover": None,
                "history": [],
                "state": "protected and ready to move",
                "problem": "",
            }
            for name, current in self.current.items()
        ]
        return {"peers": [*peers, {**peers[0], "name": "not there", "own": None, "peer": None}]}


def run_leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, daemon: Daemon, interface: str, *further: str) -> int:
    path = tmp_path / "swanroam.yaml"
    path.write_text(
        json.dumps({"identity": "m.example.org", "peers": [{"identity": "c.example.org", "connection": "c"}]})
    )
    for module in (leave, move):
        monkeypatch.setattr(module, "ask", daemon.ask)
    statuses: list[int] = []

    def in_namespace() -> None:
        ip(*THREE_NETWORKS, *further)
        statuses.append(main(["leave", "--config", str(path), "--timeout", "1", interface]))

    in_own_thread(NEW_NETWORK, in_namespace)
    return statuses[0]


def test_only_peers_on_that_interface_move_and_to_the_best_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon()

    assert run_leave(monkeypatch, tmp_path, daemon, "cable") == Exit.OK
    assert daemon.current == {"office": str(WIFI), "home": str(WIFI), "elsewhere": str(WIFI)}
    assert [order["peer"] for order in daemon.orders] == ["office", "home"]
    assert capsys.readouterr().out.splitlines()[0].startswith(f"office: moved to {WIFI}")


def test_an_interface_that_nobody_sees_needs_no_move(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    daemon = Daemon()

    assert run_leave(monkeypatch, tmp_path, daemon, "wwan") == Exit.OK
    assert daemon.orders == []


def test_where_there_is_no_other_way_it_says_so_and_orders_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon()

    status = run_leave(monkeypatch, tmp_path, daemon, "cable", "link set wifi down", "link set wwan down")
    assert status == Exit.FAILED
    assert daemon.orders == []
    assert "office: stays on cable: no other interface that is up has an address and a route" in capsys.readouterr().err


def test_a_peer_that_may_not_be_left_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon(refuses="office")

    assert run_leave(monkeypatch, tmp_path, daemon, "cable") == Exit.FAILED
    assert daemon.current["home"] == str(WIFI)
    assert "office: stays on cable: the configuration lets only the peer move" in capsys.readouterr().err

"""The lab's own logic that needs no kernel: division of work, redaction, comparison of states, UDP records."""

import array
import os
import socket
from ipaddress import IPv6Network, ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab import snapshot, traffic
from lab.addressing import CONTROL_PREFIX, inner_address
from lab.connections import sockets
from lab.controller import merge
from lab.guest import parse
from lab.shards import Claims
from lab.totals import total
from swanroam.inner_address import inner_address as inner_address_of_swanroam

STATE = """--- states
src 10.1.1.2 dst 10.3.3.2
\tproto esp spi 0xc28f507f(3264172159) reqid 2(0x00000002) mode transport
\treplay-window 0 seq 0x00000000 flag  (0x00000000)
\tauth-trunc hmac(sha256) 0x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff 128
\tenc cbc(aes) 0x00112233445566778899aabbccddeeff
\tanti-replay context: seq 0x0, oseq 0x10, bitmap 0x00000000
src 10.0.0.9 dst 10.3.3.2
\tproto esp spi 0xc28f5080 reqid 3 mode tunnel
\taead rfc4106(gcm(aes)) 0x00112233445566778899aabbccddeeff00112233 128
"""


def test_keys_are_redacted_and_nothing_else() -> None:
    text = snapshot.redact(STATE)
    assert "0x00112233" not in text
    assert text.count("<key>") == 3
    assert "spi 0xc28f507f" in text


def test_states_that_differ_only_in_what_changes_by_itself_are_equal() -> None:
    first, second = STATE.split("src 10.0.0.9")
    other = f"--- states\nsrc 10.0.0.9{second}" + first.removeprefix("--- states\n")
    other = other.replace("c28f50", "c00050").replace("oseq 0x10", "oseq 0x7").replace("reqid 3", "reqid 9")
    assert snapshot.normalise(other) == snapshot.normalise(STATE)


def test_a_difference_is_told_entry_by_entry() -> None:
    before = "--- rules\n0: local\n--- states\nsrc a\n\tproto esp"
    after = "--- rules\n0: local\n150: ours\n--- states"
    assert snapshot.difference(before, after) == "+ rules: 150: ours\n- states: src a\n\tproto esp"
    assert snapshot.difference(before, before) == ""


def test_an_entry_that_is_there_twice_is_not_the_same_as_once() -> None:
    assert snapshot.difference("--- rules\nx", "--- rules\nx\nx") == "+ rules: x"


def test_each_test_is_claimed_by_exactly_one_process(tmp_path: Path) -> None:
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take("tests/a.py::test_one[ipv4]")
    assert not second.take("tests/a.py::test_one[ipv4]")
    assert second.take("tests/a.py::test_one[ipv6]")
    assert not first.take("tests/a.py::test_one[ipv6]")


def test_the_launcher_takes_its_own_options_and_leaves_the_rest_to_pytest() -> None:
    options, command = parse(["--guests", "2", "-k", "soft", "-x"])
    assert options.guests == 2
    assert command[command.index("-k") :][:3] == ["-k", "soft", "-x"]
    assert command[command.index("-m", 3) + 1] == "(lab or both) and not long and not ansible"

    _, command = parse(["--exec", "python3", "-m", "lab.demo", "--guests"])
    assert command == ["python3", "-m", "lab.demo", "--guests"]


def test_a_changed_configuration_is_merged_key_by_key() -> None:
    base = {"log": {"level": "debug", "format": "json"}, "peers": [1], "defaults": {}}
    changes = {"log": {"level": "info"}, "defaults": None, "timing": {"give_up": 5}}
    assert merge(base, changes) == {
        "log": {"level": "info", "format": "json"},
        "peers": [1],
        "timing": {"give_up": 5},
    }


def test_lab_and_controller_agree_on_inner_addresses() -> None:
    for identity in ("mobile.example.org", "correspondent.example.org", "CN=häst"):
        assert inner_address(identity) == inner_address_of_swanroam(identity, IPv6Network(CONTROL_PREFIX))


def test_udp_records_tell_lost_doubled_and_refused_packets() -> None:
    sender = traffic.Record(
        sent=array.array("d", [1.0, 1.1, -1.2, 1.3, 1.4]), received=array.array("Q"), received_at=array.array("d")
    )
    receiver = traffic.Record(
        sent=array.array("d"),
        received=array.array("Q", [0, 3, 3, 4]),
        received_at=array.array("d", [1.01, 1.32, 1.33, 1.41]),
    )
    direction = traffic.direction(sender, receiver, {"Network is unreachable": 1})

    assert (direction.sent, direction.received, direction.duplicated) == (5, 3, 1)
    assert direction.lost == [(1, 1.1), (2, 1.2)]
    assert direction.refused == [(2, 1.2)]
    assert round(direction.longest_silence, 2) == 0.31
    assert direction.silence_began == 1.01
    assert direction.lost_outside(1.15, 1.25) == [(1, 1.1)]


def test_totals_miss_the_tests_that_run_on_both_kernels() -> None:
    good = {"unit": {"passed": 3}, "kernel": {"passed": 3, "both": 1}, "lab": {"passed": 3, "both": 1}}
    assert total(good) == ("9 passed, 0 failed, 0 skipped (unit 3, kernel 3, lab 3)", True)
    line, fine = total(good | {"lab": {"passed": 3, "both": 0}})
    assert not fine
    assert "lab without those that run in both" in line
    assert not total(good | {"kernel": {"passed": 3}})[1]
    assert not total(good | {"kernel": None})[1]


@pytest.mark.parametrize(
    ("family", "own", "seen"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
    ],
    ids=["ipv4", "ipv6", "mapped"],
)
@pytest.mark.parametrize(
    ("kind", "protocol"), [(socket.SOCK_STREAM, "t"), (socket.SOCK_DGRAM, "u")], ids=["tcp", "udp"]
)
def test_connected_sockets_are_read_as_they_are(
    family: socket.AddressFamily, own: str, seen: str, kind: socket.SocketKind, protocol: str
) -> None:
    here = SimpleNamespace(holder_pid=os.getpid())
    with socket.socket(family, kind) as one, socket.socket(family, kind) as other:
        other.bind((own, 0))
        if kind is socket.SOCK_STREAM:
            other.listen()
        assert not sockets(here, protocol=protocol, peer_port=other.getsockname()[1])
        one.connect(other.getsockname())
        (found,) = sockets(here, protocol=protocol, peer_port=other.getsockname()[1])
        assert (found.local, found.remote) == (ip_address(seen), ip_address(seen))
        assert found.local_port == one.getsockname()[1]
        assert found.inode == os.fstat(one.fileno()).st_ino
        assert sockets(here, protocol=protocol, own_port=found.local_port) == [found]

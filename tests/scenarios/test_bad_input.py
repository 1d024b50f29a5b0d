"""What is wrong is told with its remedy and an exit status of its own, and nothing is half done.

First hosts on which the daemon can't start, then datagrams that are no messages, sent through the real control channel.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.controller import Finished
from lab.host import Host
from lab.namespace import Namespace
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.scenario import GRACE, start
from swanroam.protocol.codec import MAX_DATAGRAM

PORT = 4510


# --- a daemon that can't start, on a host that has all it needs -------------------------------------------------------


def run(host: Host, changes: Mapping[str, Any] | None = None, *, text: str | None = None) -> Finished:
    """`swanroam run` with a configuration that must not work."""
    file = host.controller.write_config(changes)
    if text is not None:
        file.write_text(text)
    return host.controller.command("run", "--config", str(file))


@contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    """The file with a text replaced, inside the block."""
    original = path.read_text()
    assert old in original
    path.write_text(original.replace(old, new))
    try:
        yield
    finally:
        path.write_text(original)


@contextmanager
def mute_socket(path: Path) -> Iterator[None]:
    """Somebody listens on the socket, and says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield


@pytest.mark.lab
def test_what_keeps_the_daemon_from_starting_is_told_and_leaves_no_trace(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    host = lab.mobile
    host.charon.start()
    controller = host.controller
    config = str(controller.config_file)
    swanctl = host.charon.swanctl_directory / "swanctl.conf"
    controller.write_config()
    before = host.snapshot()

    def expect(done: Finished, status: int, *said: str) -> None:
        print(f"[{done.status}] {done.stdout}{done.stderr}")
        assert done.status == status
        assert "Traceback" not in done.stderr
        for text in said:
            assert text in done.stderr
        assert host.snapshot() == before

    # The configuration.
    expect(run(host, text="peers: [\n"), 3, f"{config}:2:1:")
    expect(run(host, {"identiy": "x"}), 3, "identiy: is not a known key", "did you mean 'identity'?")
    peer = controller.default_config()["peers"][0]
    expect(run(host, {"peers": [{"identity": peer["identity"]}]}), 3, "peers[0].connection: is missing")
    expect(run(host, {"peers": [peer | {"connection": "peer-correspondant"}]}), 3, "did you mean peer-correspondent?")
    expect(run(host, {"swanctl_file": "/nowhere/swanctl.conf"}), 3, "/nowhere/swanctl.conf", "swanctl --load-conns")
    with changed(swanctl, "            swanroam {", "            other {"):
        expect(run(host), 3, "has no control child swanroam", "`swanroam check-config` prints how it must be")
    with changed(swanctl, "set_mark_out = 0x5353", ""):
        expect(run(host), 3, "set_mark_out is missing and must be 0x5353", "check-config")

    # charon.
    missing = controller.directory / "missing.vici"
    expect(run(host, {"vici_socket": str(missing)}), 4, f"{missing} does not exist", "systemctl start strongswan")
    mute = controller.directory / "mute.vici"
    with mute_socket(mute):
        expect(run(host, {"vici_socket": str(mute)}), 4, "charon did not finish within 10 s", "swanctl --stats")

    # Files.
    host.run(["mkdir", "/run/readonly"])
    host.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/run/readonly"])
    expect(run(host, {"state_directory": "/run/readonly/state"}), 10, "/run/readonly/state: Read-only file system")
    expect(run(host, {"state_directory": "/run/readonly"}), 10, "cannot write the journal /run/readonly/journal.json")
    expect(run(host, {"runtime_directory": "/run/readonly"}), 10, "cannot write /run/readonly/lock")
    long = controller.directory / ("long" * 30)
    expect(run(host, {"runtime_directory": str(long)}), 10, "set runtime_directory to elsewhere")
    journal = controller.directory / "state" / "journal.json"
    journal.write_text('{"version": 1')
    expect(run(host), 10, f"the journal {journal} is damaged", "swanroam cleanup", "remove the file")
    journal.unlink()

    # The port.
    taker = host.popen([sys.executable, "-S", "-c", TAKE_PORT, str(PORT)], stdin=subprocess.PIPE)
    assert taker.stdout is not None
    taker.stdout.readline()
    expect(run(host), 1, f"]:{PORT}: Address already in use", "control.port")
    taker.kill()
    taker.wait()

    # Nobody to ask.
    controller.write_config()
    for command in (["status"], ["move", "192.0.2.1"]):
        expect(controller.command(*command, "--config", config), 7, "no daemon answers on", "swanroam run")

    # Somebody already there.
    host.start_controller()
    expect_running = host.snapshot()
    second = controller.command("run", "--config", config)
    assert second.status == 8
    assert "another swanroam holds" in second.stderr
    assert controller.command("cleanup", "--config", config).status == 8
    assert host.snapshot() == expect_running
    bad = controller.command("move", "192.0.2.77", "--config", config)
    assert bad.status == 1
    assert "192.0.2.77 is not a usable address of this host; it has: " in bad.stderr
    bad = controller.command("move", str(host.address), "--peer", "nobody", "--config", config)
    assert bad.status == 1
    assert "no peer is called 'nobody'; there are: correspondent" in bad.stderr
    assert host.stop_controller() == 0
    assert host.snapshot() == before


TAKE_PORT = """
import socket, sys
taker = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
taker.bind(("::", int(sys.argv[1])))
print("taken", flush=True)
sys.stdin.read()
"""


# --- datagrams --------------------------------------------------------------------------------------------------------

SEND = """
import socket, sys
source, port, target, *datagrams = sys.argv[1:]
sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sender.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: a router does not own what it pretends
sender.bind((source, int(port)))
for datagram in datagrams:
    try:
        sender.sendto(bytes.fromhex(datagram), (target, 4510))
    except OSError as error:
        print(error)
"""
SEQUENCE = b"\x81\x00\x08" + bytes(7) + b"\x01"
HANDOVER = b"\x82\x00\x08" + bytes(8)
MALFORMED = {
    "too_short": [b"", b"S", b"SR\x01"],
    "not_ours": [b"\x00" * 4, b"GET / HTTP/1.0\r\n\r\n", os.urandom(64).replace(b"SR", b"XX")],
    "unsupported_version": [b"SR\x00\x01", b"SR\xff\x01"],
    "unknown_type": [b"SR\x01\x00", b"SR\x01\xff"],
    "truncated_field": [b"SR\x01\x01\x81", b"SR\x01\x01\x81\xff\xff", b"SR\x01\x01" + SEQUENCE[:-1]],
    "too_many_fields": [b"SR\x01\x01" + b"\x7f\x00\x00" * 33],
    "unknown_critical_field": [b"SR\x01\x01\xff\x00\x00"],
    "missing_field": [b"SR\x01\x01", b"SR\x01\x03" + SEQUENCE],
    "duplicate_field": [b"SR\x01\x03" + SEQUENCE + SEQUENCE + HANDOVER],
    "bad_value": [b"SR\x01\x03" + SEQUENCE + b"\x82\x00\x01\x00"],
    "too_long": [b"SR\x01\x01" + bytes(MAX_DATAGRAM), os.urandom(4000)],
}


def send(host: Namespace, source: object, port: int, target: object, datagrams: list[bytes]) -> None:
    argv = [str(source), str(port), str(target), *(datagram.hex() for datagram in datagrams)]
    refused = host.run([sys.executable, "-S", "-E", "-c", SEND, *argv]).stdout
    assert not refused, refused


@pytest.mark.lab
def test_datagrams_that_are_no_messages_are_counted_and_dropped(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    lab.start()
    story = start(lab)
    mobile, correspondent = lab.mobile, lab.correspondent

    def dropped() -> dict[str, int]:
        """Without what the peer said before our controller had read charon: it is repeated, and no mistake."""
        counted = mobile.status()["control_channel"]["dropped"]
        return {reason: count for reason, count in counted.items() if reason != "unproven_sender"}

    assert dropped() == {}
    before, snapshot = mobile.status()["peers"], mobile.snapshot()

    # From the peer's host and inner address. Another program there does not have the port while the controller runs.
    send(correspondent, correspondent.inner_address, 0, mobile.inner_address, [b"SR\x01\x01"])
    wait_for(lambda: dropped() == {"wrong_port": 1}, 10, "a datagram from another port is counted")

    # With the port: its controller is dead, what it left in the kernel still protects and routes.
    correspondent.kill_controller()
    everything = [datagram for datagrams in MALFORMED.values() for datagram in datagrams]
    send(correspondent, correspondent.inner_address, PORT, mobile.inner_address, everything)
    expected = {"wrong_port": 1, **{reason: len(datagrams) for reason, datagrams in MALFORMED.items()}}
    wait_for(lambda: dropped() == expected, 10, f"dropped: {expected}", lambda: str(dropped()))

    # Well-formed, and nonsense: an answer to no challenge, a request about no address change.
    late = SEQUENCE[:-1] + b"\x63"
    nonsense = [
        b"SR\x01\x03" + late + HANDOVER + b"\x87\x00\x10" + bytes(16),
        b"SR\x01\x04" + late + HANDOVER + b"\x8a\x00\x01\x01",
    ]
    send(correspondent, correspondent.inner_address, PORT, mobile.inner_address, nonsense)
    mobile.controller.wait_event("unexpected_message", count=2)

    # In clear, from the path, as if from the peer. The router is told where the inner address is to be found.
    router = lab.router.namespace
    link = mobile.run(["cat", "/sys/class/net/net-a/address"]).stdout.strip()
    router.ip(
        f"route add {mobile.inner_address}/128 dev net-a",
        f"neigh replace {mobile.inner_address} lladdr {link} dev net-a",
    )
    blocked_before = blocked(mobile)
    send(router, correspondent.inner_address, PORT, mobile.inner_address, everything)
    send(router, "fd53:7761:6e72::bad", PORT, mobile.inner_address, everything)
    wait_for(
        lambda: blocked(mobile) - blocked_before == 2 * len(everything),
        10,
        "the guards have blocked what came in clear",
        lambda: str(mobile.xfrm_errors()),
    )

    after = mobile.status()
    assert after["control_channel"]["dropped"] == expected
    assert after["peers"] == before
    assert mobile.snapshot() == snapshot
    text = mobile.controller.command("status", "--config", str(mobile.controller.config_file)).stdout
    print(text)
    assert "Datagrams dropped on the control channel: bad_value 1, duplicate_field 1" in text

    # And it works as before.
    correspondent.start_controller({"defaults": {"grace": GRACE}})
    mix = story.traffic(bulk_rate=20_000, udp_rate=0)
    mobile.move_to("net-b")
    story.wait_moved()
    mix.stop()


def blocked(host: Host) -> int:
    """Packets that policies have stopped on their way in: the control channel's own, and the guard of the prefix."""
    errors = host.xfrm_errors()
    return errors.get("XfrmInTmplMismatch", 0) + errors.get("XfrmInPolBlock", 0)

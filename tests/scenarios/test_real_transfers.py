"""Packaged, unmodified programs that move much: each lives through five moves in a row, and every byte arrives.

A download with curl, rsync over OpenSSH, iperf3 both ways. SWANROAM_TRANSFER_MB sets how much is moved; `make
programs-full` moves 500 MB.
"""

import json
import os
import time

import pytest

from lab.addressing import Family
from lab.capture import UNPROTECTED
from lab.services import Services, file_digest, make_data
from lab.sessions import Download, Session
from lab.topology import Lab
from scenarios.five_moves import FiveMoves
from scenarios.scenario import start

pytestmark = [pytest.mark.lab, pytest.mark.long]

SIZE = int(os.environ.get("SWANROAM_TRANSFER_MB") or 60) * 1_000_000
UNDER_WAY = 60
"""Seconds for which transfers last at least. Five moves take 15 in a guest kernel, 40 in one that shares its CPU."""
PATIENCE = 120 + SIZE / 1_000_000
"""Seconds until a transfer must be through."""
IPERF_RATE = "30M"
"""Bits per second each way: about a third of what a guest kernel carries both ways."""

only_ipv4 = pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"])


def test_a_large_download(lab: Lab) -> None:
    """curl, read slowly while the host moves and quickly then."""
    story = start(lab, captured=UNPROTECTED)
    with Services(lab.directory) as services:
        nginx = services.nginx(lab.correspondent)
        digest = make_data(nginx.files / "data", SIZE, lab.random)
        argv = ["curl", "-sS", "--fail", nginx.url(lab.correspondent.address, "data")]
        began = time.monotonic()
        curl = Download(lab.mobile, argv, size=SIZE, rate=SIZE // UNDER_WAY)
        curl.wait_received(SIZE // 200)

        FiveMoves(story, nginx.port).run(lambda: curl.wait_received(SIZE // 200))
        moved, at = curl.received, time.monotonic()
        assert curl.finish(PATIENCE) == digest
        print(
            f"curl: {SIZE} bytes in {time.monotonic() - began:.1f} s, {moved} of them over five moves in"
            f" {at - began:.1f} s; longest silence {curl.longest_silence * 1000:.0f} ms"
        )
    story.finish()


@only_ipv4
def test_rsync_over_ssh(lab: Lab) -> None:
    """A directory is copied; a second run that compares checksums then finds nothing to do."""
    story = start(lab, captured=UNPROTECTED)
    source, target = lab.directory / "source", lab.directory / "target"
    source.mkdir()
    small = SIZE // 10
    digests = {
        "large": make_data(source / "large", SIZE - small, lab.random),
        "small": make_data(source / "small", small, lab.random),
    }
    with Services(lab.directory) as services:
        sshd = services.sshd(lab.correspondent)
        transport = ["rsync", "-a", "-e", " ".join(sshd.ssh)]
        ends = [f"{source}/", f"[{lab.correspondent.address}]:{target}"]
        limit = f"--bwlimit={SIZE // UNDER_WAY // 1024}"
        began = time.monotonic()
        rsync = Session(lab.mobile, [*transport, limit, "--info=progress2", "--no-inc-recursive", *ends])
        rsync.wait_line("%")

        def check() -> None:
            assert rsync.running, f"rsync has ended before the moves were through: {rsync.tail()}"

        FiveMoves(story, sshd.port).run(check)
        moved = time.monotonic() - began
        assert rsync.wait(timeout=PATIENCE) == 0, rsync.tail()
        took = time.monotonic() - began
        print(f"rsync: {SIZE} bytes in {took:.1f} s, five moves in the first {moved:.1f} s of them")

        assert {path.name: file_digest(path) for path in target.iterdir()} == digests
        compared = lab.mobile.run([*transport, "--checksum", "--itemize-changes", "--dry-run", *ends], timeout=PATIENCE)
        assert not compared.stdout
    story.finish()


@only_ipv4
def test_iperf3_both_ways(lab: Lab) -> None:
    """Two streams and the control connection; iperf3 itself finds no error, and both ways carry to the end."""
    story = start(lab, captured=UNPROTECTED)
    with Services(lab.directory) as services:
        iperf3 = services.iperf3(lab.correspondent)
        peer = str(lab.correspondent.address)
        argv = ["iperf3", "-c", peer, "--bidir", "-t", str(UNDER_WAY), "-b", IPERF_RATE, "--json"]
        client = Session(lab.mobile, argv)
        moves = FiveMoves(story, iperf3.port, connections=3)

        def check() -> None:
            assert client.running, f"iperf3 has ended before the moves were through: {client.tail()}"

        moves.run(check)
        assert client.wait(timeout=UNDER_WAY + 60) == 0, client.tail()
        result = json.loads("\n".join(line for _, line in client.lines))
    assert "error" not in result, result["error"]
    for name in ("sum", "sum_bidir_reverse"):
        bytes_each = [interval[name]["bytes"] for interval in result["intervals"]]
        assert all(bytes_each[-5:]), bytes_each
        silent = sum(not count for count in bytes_each)
        print(f"iperf3 {name}: {sum(bytes_each)} bytes, {silent} of {len(bytes_each)} seconds without any")
    received = [result["end"][name]["bytes"] for name in ("sum_received", "sum_received_bidir_reverse")]
    assert min(received) > 0, received
    story.finish()

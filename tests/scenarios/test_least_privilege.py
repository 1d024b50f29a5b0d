"""Both daemons run as their systemd unit lets them: as a user of their own, with the unit's capabilities and no more.

A whole handover with moving sockets works so, and the keys of the run are nowhere but in the kernel, in charon and in
the file that the administrator keeps them in.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import service
from lab.addressing import Family
from lab.host import Host
from lab.keys import Keys, files_with, processes_with
from lab.topology import Lab
from scenarios.native import Native
from scenarios.remains import MOVER, NURSERY, processes
from scenarios.scenario import Story, start

pytestmark = pytest.mark.lab

NET_ADMIN = 1 << 12
LOG = {"log": {"format": "json", "level": "debug"}}
CONFIG = {"api_group": service.API_GROUP, **LOG}


@pytest.mark.parametrize("method", ["renegotiate", pytest.param("migrate", marks=pytest.mark.long)])
def test_a_handover_as_an_unprivileged_user_moves_the_sockets_and_shows_no_key(
    make_lab: Callable[..., Lab], method: str
) -> None:
    lab = make_lab(family=Family.IPV4)
    for host in lab.hosts:
        service.install(host)
    lab.start()
    story = start(lab, method=method, config=CONFIG)
    keys = Keys()
    keys.collect(lab.hosts)
    mix = story.traffic(bulk_rate=50_000, udp_rate=100)
    native = Native(story)

    lab.mobile.move_to("net-b", soft=True)
    story.wait_transport()
    native.wait()
    keys.collect(lab.hosts)
    for host in lab.hosts:
        assert_unprivileged(host)
        assert_only_for_the_group(host)
    assert_no_key_shown(story, keys)

    mix.stop()
    story.wait_rest()
    story.rekey_everything()
    keys.collect(lab.hosts)
    story.finish(rekey=False)
    assert_no_key_shown(story, keys)


def assert_unprivileged(host: Host) -> None:
    """The daemon has one capability in force and the others at hand for the mover; its memory is its own."""
    options = host.controller.service
    assert options is not None
    (nursery,) = processes(host, NURSERY, host.controller.pid)
    daemon = status_of(host.controller.pid)
    for status in (daemon, status_of(nursery), *map(status_of, processes(host, MOVER))):
        assert status["Uid"].split() == [str(options.user)] * 4
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapPrm"], 16).bit_count() <= len(options.capabilities)
    assert int(daemon["CapEff"], 16) == NET_ADMIN
    assert int(daemon["CapAmb"], 16) == 0
    limits = Path(f"/proc/{host.controller.pid}/limits").read_text(encoding="ascii")
    assert next(line.split()[-3:-1] for line in limits.splitlines() if "core file" in line) == ["0", "0"]
    # What shows a process's memory belongs to root where it must not be dumped, else to the process's user (proc(5)).
    owners = [Path(f"/proc/{pid}/mem").stat().st_uid for pid in (host.controller.pid, nursery)]
    assert owners == [0, options.user]


def status_of(pid: int | None) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def assert_only_for_the_group(host: Host) -> None:
    """State files are for the user alone, the API is for the group."""
    options = host.controller.service
    assert options is not None
    for path in (host.directory / "state").rglob("*"):
        assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, options.user), path
    api = (host.directory / "run" / "api.sock").stat()
    assert api.st_mode & 0o777 == 0o660
    assert api.st_gid == host.directory.joinpath("run").stat().st_gid == group_number(host, service.API_GROUP)


def group_number(host: Host, name: str) -> int:
    return int(host.run(["getent", "group", name]).stdout.split(":")[2])


def assert_no_key_shown(story: Story, keys: Keys) -> None:
    """In no file that the hosts have, in no process of theirs, and in no answer of the daemons'."""
    for host in story.lab.hosts:
        assert files_with(keys, host.directory) == []
        assert processes_with(keys, host.pids()) == []
        if host.controller.running:
            config = ["--json", "--config", str(host.controller.config_file)]
            for command in ("status", "sockets"):
                done = host.controller.command(command, *config)
                assert json.loads(done.stdout)
                assert not keys.seen_in(done.stdout.encode() + done.stderr.encode())


def test_a_key_that_is_in_a_log_or_shown_by_a_process_is_found(make_lab: Callable[..., Lab]) -> None:
    """So that the test above could fail. In which forms: test_lab_keys.py."""
    lab = make_lab(family=Family.IPV4)
    lab.start()
    keys = Keys()
    keys.collect(lab.hosts)
    host, key = lab.mobile, min(keys.found).hex()
    assert files_with(keys, host.directory) == []
    assert processes_with(keys, host.pids()) == []

    for name in ("swanroam.log", "journal.json"):
        (host.directory / name).write_text(f'{{"event": "a mistake", "key": "{key}"}}\n', encoding="ascii")
    shown = host.popen(["sh", "-c", "echo; sleep 60; true", "sh", key], env={"KEY": key})
    assert shown.stdout is not None
    assert shown.stdout.readline() == "\n"

    assert files_with(keys, host.directory) == ["journal.json", "swanroam.log"]
    assert {f"{shown.pid}/cmdline", f"{shown.pid}/environ"} <= set(processes_with(keys, host.pids()))

"""Boots a Debian root with systemd as a User-Mode Linux guest, and reads what the story in it has reported."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from lab.guest import UML, pinned, preloaded
from package.debian_root import DebianRoot

HERE = Path(__file__).parent
MODULES = Path("/usr/lib/uml/modules")
TIME_LIMIT = 3600.0
"""Seconds from the start of the guest to its end; system calls are slow there."""

MOBILE, CORRESPONDENT = "mobile.example.org", "correspondent.example.org"
INNER = {
    MOBILE: "fd53:7761:6e72:6d76:8185:b065:b090:508",
    CORRESPONDENT: "fd53:7761:6e72:e21f:4706:1d5f:d0fa:dd28",
}

_CONNECTION = """\
connections {{
    peer {{
        version = 2
        local_addrs = %any
        remote_addrs = {remote}
        mobike = no
        dpd_delay = 30s
        reauth_time = 0
        local {{
            auth = psk
            id = {own}
        }}
        remote {{
            auth = psk
            id = {other}
        }}
        children {{
            data {{
                mode = transport
                local_ts = dynamic
                remote_ts = dynamic
                replay_window = 128
            }}
            swanroam {{
                mode = tunnel
                local_ts = {own_inner}/128
                remote_ts = {other_inner}/128
                set_mark_out = 0x5353
            }}
        }}
    }}
}}
"""
_SECRET = f'secrets {{ ike-both {{\nid-a = {MOBILE}\nid-b = {CORRESPONDENT}\nsecret = "of this guest alone"\n}} }}\n'
_CONFIGURATION = """\
identity: {own}
api_group: swanroam-admin
addresses: {{readd_window: 1s}}
peers: [{{identity: {other}, connection: peer, name: peer, moves: {moves}, transport: move, grace: 1s}}]
"""


@dataclass(slots=True)
class Section:
    """One part of the report: all that was said, and how each command ended that was asked for that."""

    text: str = ""
    statuses: list[int] = field(default_factory=list)


def furnish(root: DebianRoot) -> None:
    """Two hosts' configuration as README.md has it, users, the kernel's modules and the story."""
    for own, other, etc, remote, moves in (
        (MOBILE, CORRESPONDENT, "/etc", "203.0.113.9", "us"),
        (CORRESPONDENT, MOBILE, "/etc/netns/peer", "%any", "peer"),
    ):
        connection = _CONNECTION.format(
            own=own, other=other, own_inner=INNER[own], other_inner=INNER[other], remote=remote
        )
        root.put(f"{etc}/swanctl/conf.d/peer.conf", connection)
        root.put(f"{etc}/swanctl/conf.d/secrets.conf", _SECRET, mode=0o600)
        root.put(f"{etc}/swanctl/swanctl.conf", "include conf.d/*.conf\n")
        root.put(f"{etc}/swanroam/swanroam.yaml", _CONFIGURATION.format(own=own, other=other, moves=moves))
    # A guest may get little of a busy machine. Of the unit's own limits none is changed.
    root.put("/etc/systemd/system.conf.d/patient.conf", "[Manager]\nDefaultTimeoutStartSec=20min\n")
    for path in sorted(HERE.iterdir()):
        if path.is_file():
            root.put(f"/root/live/{path.name}", path.read_text(encoding="utf-8"))
    root.shell(
        "cp /usr/share/swanroam/strongswan-conf/strongswan.d/swanroam-group.conf /etc/strongswan.d/\n"
        "useradd --system --user-group --groups swanroam-admin alice\n"
        "useradd --system --user-group bob\n"
        "systemd-machine-id-setup --print >/dev/null\n"
        "cp /root/live/check.service /etc/systemd/system/check.service\n"
        "systemctl add-wants multi-user.target check.service\n"
        "systemctl disable NetworkManager.service NetworkManager-wait-online.service\n"
        "systemctl enable NetworkManager-dispatcher.service\n"  # it went with the former
    )
    shutil.copytree(MODULES, root.upper / "usr/lib/modules", dirs_exist_ok=True)


def boot(root: DebianRoot, directory: Path) -> str:
    """The story's report; `directory` keeps the console as well. Fails when the guest does not come to its end."""
    assert shutil.which(UML), f"{UML} is missing: apt-get install user-mode-linux"
    report = directory / "report"
    report.mkdir(parents=True)
    image = directory / "disk.ext4"
    root.image(image, "2G")
    argv = [
        *pinned(0), UML, "mem=1500M", f"ubd0={image}", "root=/dev/ubda", "rootfstype=ext4", "rw",
        f"uml_dir={directory}", "umid=guest", f"report={report}", "init=/usr/lib/systemd/systemd",
        # Debian's kernels have AppArmor, and its init tells of calls that a unit's filter refuses: systemd(1).
        "security=apparmor", "apparmor=1", "SYSTEMD_LOG_SECCOMP=1", "sysctl.kernel.printk_ratelimit=0",
        "systemd.show_status=false", "loglevel=4", "panic=1", "con=null", "con0=null,fd:1", "ssl=null",
    ]  # fmt: skip
    try:
        with (directory / "console").open("wb") as console:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                env=os.environ | preloaded(directory),
            )  # fmt: skip
            try:
                process.wait(TIME_LIMIT)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with_group_killed(process)
    finally:
        image.unlink()
    output = report / "output"
    said = output.read_text("utf-8", "replace") if output.exists() else ""
    console_end = (directory / "console").read_text("utf-8", "replace")[-3000:]
    assert said.endswith("== end\n"), f"the guest did not come to its end:\n{said[-3000:]}\n{console_end}"
    return said


def with_group_killed(process: subprocess.Popen[bytes]) -> None:
    """The guest with all of its processes, if it has not ended."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
        process.wait()


def sections(report: str) -> dict[str, Section]:
    """The report by its sections."""
    found: dict[str, Section] = {}
    current = Section()
    for line in report.splitlines():
        if line.startswith("== status "):
            current.statuses.append(int(line.removeprefix("== status ")))
        elif line.startswith("== "):
            current = found.setdefault(line.removeprefix("== "), Section())
        else:
            current.text += line + "\n"
    return found

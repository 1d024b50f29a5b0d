"""swanroam in a host as its systemd unit runs it: that user, those groups and capabilities, that view of /proc.

What is read from systemd/ is all that counts here; nothing of the unit is repeated. The sandbox of the unit that has
no part in what swanroam may do (system call filter, private /tmp, …) needs systemd itself and is not there.
"""

import os
import sys
from pathlib import Path

from lab.host import Host
from lab.namespace import Namespace, command
from lab.unit import ROOT, service_of, unit

SYSUSERS = ROOT / "systemd" / "swanroam.sysusers"
API_GROUP = "swanroam-admin"


def install(host: Host) -> None:
    """Let the host's controller run as the unit says, and its charon admit that. Before either is started."""
    options = unit()
    accounts = _make_accounts(host, host.directory / "accounts")
    user, group = accounts["passwd"][options["User"]], accounts["group"][options["Group"]]
    groups = host.run(["id", "-G", options["User"]]).stdout.split()
    service = service_of(options, user, group, tuple(map(int, groups)))
    for path, mode in (("state", options["StateDirectoryMode"]), ("run", options["RuntimeDirectoryMode"])):
        (host.directory / path).mkdir()
        os.chown(host.directory / path, user, group)
        (host.directory / path).chmod(int(mode, 8))
    host.directory.parent.chmod(0o711)
    restrict_proc(host)
    open_ways(host, {ROOT, Path(sys.prefix), Path(sys.base_prefix)})
    host.charon.group = options["Group"]
    host.controller.service = service


def _make_accounts(host: Host, directory: Path) -> dict[str, dict[str, int]]:
    """Users and groups of systemd/swanroam.sysusers beside the machine's own, in this host only: their numbers."""
    (directory / "etc").mkdir(parents=True)
    found: dict[str, dict[str, int]] = {}
    for name in ("passwd", "group"):
        (directory / "etc" / name).write_text(Path("/etc", name).read_text(encoding="utf-8"), encoding="utf-8")
    command(["systemd-sysusers", f"--root={directory}", str(SYSUSERS)])
    for name in ("passwd", "group"):
        made = directory / "etc" / name
        host.run(["mount", "--bind", str(made), f"/etc/{name}"])
        lines = [line.split(":") for line in made.read_text(encoding="utf-8").splitlines()]
        found[name] = {line[0]: int(line[2]) for line in lines}
    return found


def restrict_proc(namespace: Namespace) -> None:
    """ProtectProc=invisible, ProtectKernelTunables=yes and ReadWritePaths=/proc/sys/net."""
    options = unit()
    assert (options["ProtectProc"], options["ProtectKernelTunables"]) == ("invisible", "yes")
    lines = ["mount -t proc -o hidepid=invisible proc /proc", "mount --bind /proc/sys /proc/sys"]
    lines += ["mount -o remount,bind,ro /proc/sys"]
    for path in options["ReadWritePaths"].split():
        lines += [f"mount --bind {path} {path}", f"mount -o remount,bind,rw {path}"]
    namespace.run(["sh", "-e", "-c", "\n".join(lines)])


def open_ways(namespace: Namespace, paths: set[Path]) -> None:
    """Let everybody reach directories below one that is closed to them, such as /root: in this host's view only.

    The closed one is replaced by an empty one, in which they are all that there is.
    """
    closed = {path: _closed_above(path) for path in paths}
    ways = {path: above for path, above in closed.items() if above and not paths & set(path.parents)}
    lines = ["mkdir /run/ways"]
    for number, path in enumerate(ways):
        lines += [f"mkdir /run/ways/{number}", f"mount --bind {path} /run/ways/{number}"]
    lines += [f"mount -t tmpfs -o mode=0755 tmpfs {above}" for above in set(ways.values())]
    for number, path in enumerate(ways):
        lines += [f"mkdir -p {path}", f"mount --bind /run/ways/{number} {path}"]
    namespace.run(["sh", "-e", "-c", "\n".join(lines)])


def _closed_above(path: Path) -> Path | None:
    """The topmost directory above it that not everybody may enter."""
    return next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o001), None)

"""The daemon: does one run, and only one, as what, with which privileges, and how is it doing with its peers?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from swanroam import __version__
from swanroam.config import Config
from swanroam.daemon.requirements import needed_capabilities
from swanroam.doctor import programs, remedies
from swanroam.doctor.view import View
from swanroam.kernel.findings import Finding, Severity, ok
from swanroam.kernel.privileges import PURPOSES, Capability

UNIT: Final = "swanroam.service"
_UNIT_PROPERTIES: Final = "LoadState,UnitFileState,User,AmbientCapabilities,NeedDaemonReload"
_SPOKEN_VERSIONS: Final = "unsupported_version"


def check(view: View) -> list[Finding]:
    """The daemon, and its unit."""
    pids = {*programs.daemons(), *([view.daemon_pid] if view.daemon_pid is not None else [])}
    return [
        *_instances(view, pids),
        *_privileges(view),
        *unit_findings(view.config, _unit()),
        *status_findings(view),
    ]


def _instances(view: View, pids: Collection[int]) -> Iterator[Finding]:
    check = "daemon"
    lock = view.config.runtime_directory / "lock"
    if view.api.forbidden and view.daemon_pid is None:
        yield Finding(check, Severity.UNSEEN, f"{lock} is hidden from this user")
    elif not view.running:
        evidence = f"no daemon holds {lock}: connections end when an address changes"
        yield Finding(check, Severity.WARNING, evidence, command="systemctl start swanroam")
    else:
        yield ok(check, f"process {view.daemon_pid or 'unknown'} holds {lock}")
    others = sorted(set(pids) - {view.daemon_pid})
    if others and view.daemon_pid is not None:
        yield Finding(
            "second daemon",
            Severity.ERROR,
            f"process{'es' * (len(others) > 1)} {', '.join(map(str, others))} of this network namespace also "
            "run swanroam: two of them undo each other's guards and carriers",
            "with another runtime_directory, or they just start or end; stop what is not wanted",
            f"kill {' '.join(map(str, others))}",
        )


def _privileges(view: View) -> list[Finding]:
    """Of the running daemon: what is at hand for it and for what it starts."""
    if view.daemon_pid is None:
        return []
    status = programs.status_of(view.daemon_pid)
    if "CapPrm" not in status:
        return [Finding("privileges", Severity.UNSEEN, f"process {view.daemon_pid} is hidden from this user")]
    bits = int(status["CapPrm"], 16)
    missing = [capability for capability in sorted(needed_capabilities(view.config)) if not bits >> capability & 1]
    if not missing:
        return [ok("privileges", f"the daemon, user {status['Uid'].split()[0]}, has what it needs")]
    named = ", ".join(f"{capability} ({PURPOSES[capability]})" for capability in missing)
    return [
        Finding(
            "privileges",
            Severity.ERROR,
            f"the running daemon lacks {named}",
            "start it by the unit swanroam.service, which gives it that, or as root",
            "systemctl restart swanroam",
        )
    ]


def _unit() -> dict[str, str] | None:
    """What systemd says of the unit; None where there is no systemd."""
    said = programs.output_of("systemctl", "show", UNIT, f"--property={_UNIT_PROPERTIES}")
    if said.status != 0:
        return None
    return {name: value for name, _, value in (line.partition("=") for line in said.out.splitlines())}


def unit_findings(config: Config, unit: dict[str, str] | None) -> list[Finding]:
    """`unit`: its properties as `systemctl show` prints them; None where there is no systemd."""
    check = "unit"
    if unit is None:
        return []
    if unit.get("LoadState") != "loaded":
        return [Finding(check, Severity.NOTE, f"systemd has no {UNIT}", "install it: see Install in the README")]
    found: list[Finding] = []
    given = set(unit.get("AmbientCapabilities", "").upper().split())
    missing = [str(one) for one in sorted(needed_capabilities(config)) if str(one) not in given]
    if missing and unit.get("User") not in ("", "root"):
        found.append(
            Finding(
                check,
                Severity.ERROR,
                f"{UNIT} runs as {unit['User']} and does not give {', '.join(missing)}",
                "a drop-in of the site's takes AmbientCapabilities away: `systemctl cat swanroam` shows it",
            )
        )
    if unit.get("UnitFileState") == "disabled":
        evidence = f"{UNIT} is not started at boot"
        found.append(Finding(check, Severity.WARNING, evidence, command="systemctl enable swanroam"))
    if unit.get("NeedDaemonReload") == "yes":
        evidence = f"{UNIT} was changed, and systemd has not read it since"
        found.append(Finding(check, Severity.WARNING, evidence, command="systemctl daemon-reload"))
    return found or [ok(check, f"{UNIT} is loaded, {unit.get('UnitFileState', 'unknown')}")]


def status_findings(view: View) -> list[Finding]:
    """What the daemon says of itself and its peers."""
    status = view.api.status
    if status is None:
        return _refusal(view)
    found = [_version(status["swanroam"]), *(_of_peer(peer) for peer in status["peers"])]
    general = [problem for problem in status["problems"] if not _is_of_a_peer(problem, status)]
    found += [Finding("daemon", Severity.ERROR, problem, "its log tells more") for problem in general]
    strange = status["control_channel"]["dropped"].get(_SPOKEN_VERSIONS, 0)
    if strange:
        found.append(
            Finding(
                "peer's version",
                Severity.WARNING,
                f"{strange} datagrams of another version of the protocol came: a peer runs another swanroam "
                f"than {__version__}",
                "`swanroam --version` on both hosts; upgrade the older one",
            )
        )
    found += [finding for peer in status["peers"] for finding in _version_of(peer)]
    return [*found, *_file_findings(view, status)]


def _file_findings(view: View, status: dict[str, Any]) -> Iterator[Finding]:
    """Whether what is examined here is what the daemon goes by."""
    check, at_work = "configuration", status["configuration"]
    file = at_work["file"]
    if view.config_file.absolute() != Path(file):
        evidence = f"{view.config_file} is examined, and the daemon reads {file}"
        yield Finding(check, Severity.WARNING, evidence, "name that file with --config")
    elif at_work["current"]:
        yield ok(check, f"{file} is at work")
    elif at_work["wrong"]:
        evidence = f"{file} is wrong, and a restart of the daemon would fail: {at_work['wrong'][0]}"
        yield Finding(check, Severity.WARNING, evidence, "mend the file", remedies.swanroam("reload", Path(file)))
    else:
        evidence = f"{file} is not what is at work"
        yield Finding(check, Severity.WARNING, evidence, command=remedies.swanroam("reload", Path(file)))


def _refusal(view: View) -> list[Finding]:
    if view.api.forbidden:
        return [Finding("peers", Severity.UNSEEN, view.api.refusal)]
    if view.daemon_pid is None:  # told already
        return []
    return [Finding("daemon", Severity.ERROR, view.api.refusal, "its log tells more", "systemctl restart swanroam")]


def _version(running: str) -> Finding:
    check = "version"
    if running == __version__:
        return ok(check, running)
    return Finding(
        check,
        Severity.WARNING,
        f"version {running} runs and {__version__} is installed",
        "connections go on meanwhile",
        "systemctl restart swanroam",
    )


def _of_peer(peer: dict[str, Any]) -> Finding:
    check = f"peer {peer['name']}"
    if peer["problem"]:
        return Finding(
            check, Severity.WARNING, f"{peer['state']}: {peer['problem']}", "see Troubleshooting in operations.md"
        )
    return ok(check, peer["state"])


def _version_of(peer: dict[str, Any]) -> Iterator[Finding]:
    """Hosts that speak the same version of the protocol understand each other, whatever program they run."""
    check, told = f"version of {peer['name']}", peer.get("swanroam", "")  # which an older daemon does not tell
    if told == __version__:
        yield ok(check, told)
    elif told:
        evidence = f"it runs {told}, this host {__version__}: they work together, but may lack each other's mendings"
        yield Finding(check, Severity.NOTE, evidence, "update the older one when it suits")


def _is_of_a_peer(problem: str, status: dict[str, Any]) -> bool:
    return any(problem == f"{peer['name']}: {peer['problem']}" for peer in status["peers"])


def own_privileges(view: View) -> Finding:
    """What this look could not see."""
    check = "this look"
    if view.privileged:
        return ok(check, "saw everything")
    return Finding(
        check,
        Severity.UNSEEN,
        f"without {Capability.NET_ADMIN} the kernel's abilities were not tried, and guards and firewall rules not read",
        command=f"sudo {remedies.swanroam('doctor', view.config_file)}",
    )

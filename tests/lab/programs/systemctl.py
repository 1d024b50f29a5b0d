#!/usr/bin/python3
"""systemctl for a lab host: what Ansible's module systemd asks for, without systemd.

Units are files in /etc/systemd/system, enabled by links as systemd makes them. A service of Type=notify runs as its
unit says, as far as lab.unit tells: user, groups, capabilities, directories, readiness. Type=oneshot runs its commands.
What runs is remembered in /run/systemctl. Sandboxing, restarts and dependencies are systemd's own and not here.
"""

import contextlib
import grp
import os
import pwd
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab.unit import service_of, unit

UNITS = Path("/etc/systemd/system")
STATE = Path("/run/systemctl")
READY_TIMEOUT = 90.0
STOP_TIMEOUT = 30.0


class Unit:
    """One unit by its name, with or without .service."""

    def __init__(self, name: str) -> None:
        self.name = name.removesuffix(".service")
        self.file = UNITS / f"{self.name}.service"
        self.wish = UNITS / "multi-user.target.wants" / self.file.name
        self.mark = STATE / self.name

    @property
    def pid(self) -> int:
        """Of its running main process; 0 for none."""
        try:
            pid = int(self.mark.read_text(encoding="ascii"))
            return pid if Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] != "Z" else 0
        except (OSError, ValueError):
            return 0

    @property
    def active(self) -> bool:
        return self.mark.exists() if self.options["Type"] == "oneshot" else bool(self.pid)

    @property
    def options(self) -> dict[str, str]:
        return unit(self.file)

    def show(self) -> str:
        if not self.file.exists():
            return f"Id={self.name}.service\nLoadState=not-found\nActiveState=inactive\nSubState=dead\n"
        state = "ActiveState=active\nSubState=running" if self.active else "ActiveState=inactive\nSubState=dead"
        enabled = "enabled" if self.wish.is_symlink() else "disabled"
        return f"Id={self.name}.service\nLoadState=loaded\n{state}\nUnitFileState={enabled}\nMainPID={self.pid}\n"

    def start(self) -> None:
        if self.active:
            return
        STATE.mkdir(exist_ok=True)
        options = self.options
        if options["Type"] == "oneshot":
            subprocess.run(shlex.split(options["ExecStart"]), check=True)
            self.mark.touch()
            return
        account = pwd.getpwnam(options["User"])
        group = grp.getgrnam(options["Group"]).gr_gid
        for base, kind in (("/var/lib", "State"), ("/run", "Runtime")):
            directory = Path(base, options[f"{kind}Directory"])
            directory.mkdir(exist_ok=True)
            for path in (directory, *directory.rglob("*")):
                os.chown(path, account.pw_uid, group, follow_symlinks=False)
            directory.chmod(int(options[f"{kind}DirectoryMode"], 8))
        groups = tuple(os.getgrouplist(account.pw_name, group))
        service = service_of(options, account.pw_uid, group, groups)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            place = STATE / f"{self.name}.notify"
            place.unlink(missing_ok=True)
            notices.bind(str(place))
            place.chmod(0o777)
            with Path(f"/run/{self.name}.log").open("ab") as log:
                process = subprocess.Popen(
                    service.wrap(shlex.split(options["ExecStart"])),
                    env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(place)},
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            self.mark.write_text(str(process.pid), encoding="ascii")
            self._wait_ready(process, notices)

    def _wait_ready(self, process: "subprocess.Popen[bytes]", notices: socket.socket) -> None:
        notices.settimeout(0.2)
        deadline = time.monotonic() + READY_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                said = Path(f"/run/{self.name}.log").read_text(encoding="utf-8", errors="replace")
                sys.exit(f"Job for {self.name}.service failed: status {process.returncode}: {said[-2000:]}")
            with contextlib.suppress(TimeoutError):
                if "READY=1" in notices.recv(4096).decode().splitlines():
                    return
        process.kill()
        sys.exit(f"Job for {self.name}.service failed because a timeout was exceeded.")

    def stop(self) -> None:
        options = self.options if self.file.exists() else {"Type": "notify"}
        if options["Type"] == "oneshot":
            if self.active:
                subprocess.run(shlex.split(options["ExecStop"]), check=True)
        elif pid := self.pid:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_TIMEOUT
            while self.pid == pid:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)
        self.mark.unlink(missing_ok=True)

    def enable(self) -> None:
        self.wish.parent.mkdir(parents=True, exist_ok=True)
        self.wish.unlink(missing_ok=True)
        self.wish.symlink_to(self.file)

    def disable(self) -> None:
        self.wish.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    now = "--now" in arguments
    verb, *names = [argument for argument in arguments if not argument.startswith("-")]
    if verb == "daemon-reload":
        return 0
    one = Unit(names[0])
    if verb == "show":
        sys.stdout.write(one.show())
        return 0
    if verb == "list-unit-files":
        if one.file.exists():
            print(f"{one.file.name} disabled enabled")
        return 0
    if verb in ("is-enabled", "is-active"):
        true = one.wish.is_symlink() if verb == "is-enabled" else one.file.exists() and one.active
        print({"is-enabled": ("disabled", "enabled"), "is-active": ("inactive", "active")}[verb][true])
        return 0 if true else 1
    if not one.file.exists():
        sys.exit(f"Failed to {verb} {one.name}.service: Unit {one.name}.service not found.")
    if verb == "restart":
        one.stop()
        one.start()
    elif verb in ("start", "stop", "enable", "disable"):
        getattr(one, verb)()
        if now:
            {"enable": one.start, "disable": one.stop}[verb]()
    else:
        sys.exit(f"this systemctl does not know {verb}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

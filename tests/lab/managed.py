"""Hosts of the lab as an administrator has them: reached by ssh, with /etc and /opt of their own, run by Ansible.

    fleet = Fleet(lab, services, wheels)
    fleet.manage(lab.mobile, "edge-1")
    run = fleet.playbook("site.yml", inventory=[EXAMPLES / "psk"])
    assert run.changed["edge-1"]

`ansible-playbook` runs on the lab's router, from where all hosts can be reached wherever they are.
"""

import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from lab.host import Host
from lab.namespace import CommandError
from lab.services import SYSTEM_PYTHON, Services, Sshd
from lab.topology import Lab

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT / "ansible"
PLAYBOOKS = COLLECTION / "playbooks"
SYSTEMCTL = Path(__file__).parent / "programs" / "systemctl.py"
OWN_DIRECTORIES = ("/etc", "/opt", "/usr/local/sbin", "/var/lib")
SHARED = ("/var/lib/dpkg", "/var/lib/apt")
"""The machine's, seen below directories of the host's own: its packages."""
TIMEOUT = 1800.0

# The machine's own files in directories that are changed from now on for this host only.
_OWN = """
mkdir -p /run/machine
for directory in {directories}; do
    mkdir -p /run/machine$directory
    mount --bind $directory /run/machine$directory
    mount -t tmpfs -o mode=0755 tmpfs $directory
done
cp -a /run/machine/etc/. /etc/
rm -rf /etc/swanctl
for directory in {shared}; do
    mkdir -p $directory
    mount --bind /run/machine$directory $directory
done
printf '#!/bin/sh\nexec {python} -E {systemctl} "$@"\n' >/run/machine/systemctl
chmod 755 /run/machine/systemctl
mount --bind /run/machine/systemctl /usr/bin/systemctl
mkdir -p /run/systemd/system /etc/systemd/system
"""
_STRONGSWAN_CONF = """
include {lab}
include strongswan.d/*.conf
"""


@dataclass(frozen=True, slots=True)
class PlaybookRun:
    """What `ansible-playbook` did."""

    status: int
    output: str

    def results(self, kind: str) -> dict[str, list[str]]:
        """Tasks and handlers, in order, that had this result: "changed", "failed", …, by host."""
        found: dict[str, list[str]] = {}
        task = ""
        for line in self.output.splitlines():
            if match := re.match(r"(?:TASK|RUNNING HANDLER) \[(?:[\w.]+ : )?(.*?)\] \*", line):
                task = match[1]
            elif match := re.match(rf"{kind}: \[([\w.-]+)", line):
                tasks = found.setdefault(match[1], [])
                tasks += [] if task in tasks else [task]
        return found

    @property
    def changed(self) -> dict[str, list[str]]:
        return self.results("changed")

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """The counts at the end, by host."""
        return {
            match[1]: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", match[2])}
            for match in re.finditer(r"^([\w.-]+) +: (ok=.*)$", self.output, re.MULTILINE)
        }


@dataclass(slots=True)
class Fleet:
    """Hosts under Ansible."""

    lab: Lab
    services: Services
    variables: dict[str, Any]
    """For all hosts, before what inventories say."""
    _hosts: dict[str, tuple[Host, Sshd]] = field(default_factory=dict)

    @property
    def _directory(self) -> Path:
        return self.lab.directory

    def manage(self, host: Host, name: str) -> None:
        """From now on the host has directories of its own and an ssh server, and the inventory calls it `name`."""
        self._directory.chmod(0o711)
        host.directory.chmod(0o755)
        swanctl = host.charon.swanctl_directory
        swanctl.mkdir(exist_ok=True)
        (swanctl / "conf.d").mkdir(exist_ok=True)
        script = _OWN.format(
            directories=" ".join(OWN_DIRECTORIES), shared=" ".join(SHARED), systemctl=SYSTEMCTL, python=SYSTEM_PYTHON,
        )  # fmt: skip
        host.run(["sh", "-e", "-c", script])
        host.run(["mkdir", "/etc/swanctl"])
        host.run(["mount", "--bind", str(swanctl), "/etc/swanctl"])
        lab_conf = host.directory / "strongswan.conf"
        lab_conf.touch()
        host.run(["sh", "-c", f"cat >/etc/strongswan.conf <<'EOF'{_STRONGSWAN_CONF.format(lab=lab_conf)}EOF"])
        host.charon.configuration = "/etc/strongswan.conf"
        self._hosts[name] = host, self.services.sshd(host)

    def host(self, name: str) -> Host:
        """The lab's host behind an inventory's name."""
        return self._hosts[name][0]

    def _inventory(self) -> Path:
        """Where the hosts are now, beside what another inventory says of them."""
        hosts = {
            name: {
                "ansible_host": str(host.address),
                "ansible_user": "root",
                "ansible_ssh_common_args": f"-F {sshd.directory}/ssh_config",
                "ansible_python_interpreter": SYSTEM_PYTHON,
                "ansible_remote_tmp": "/run/ansible",
                "lab_identity": host.identity,
                **self.variables,
                "swanroam_config": {
                    "vici_socket": str(host.charon.socket),
                    **self.variables.get("swanroam_config", {}),
                },
            }
            for name, (host, sshd) in self._hosts.items()
        }
        path = self._directory / "hosts.yml"
        path.write_text(yaml.safe_dump({"all": {"hosts": hosts}}, sort_keys=False), encoding="utf-8")
        return path

    def playbook(
        self,
        name: str,
        inventory: Iterable[Path] = (),
        *options: str,
        variables: Mapping[str, Any] | None = None,
        check: bool = True,
    ) -> PlaybookRun:
        """Run one of the collection's playbooks. Raises CommandError when it fails (unless not `check`)."""
        home = self._directory / "ansible-home"
        home.mkdir(exist_ok=True)
        arguments = [argument for path in (*inventory, self._inventory()) for argument in ("-i", str(path))]
        arguments += ["--limit", ",".join(self._hosts)]
        if variables:
            arguments += ["-e", yaml.safe_dump(dict(variables), default_flow_style=True, width=10**6).strip()]
        settings = {
            "ANSIBLE_CONFIG": str(COLLECTION / "ansible.cfg"),
            "ANSIBLE_HOME": str(home),
            "ANSIBLE_LOCAL_TEMP": str(home / "tmp"),
            "ANSIBLE_REMOTE_TEMP": str(home / "tmp"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": "/run/ansible-cp",
            "ANSIBLE_SSH_TRANSFER_METHOD": "piped",  # the lab's sshd has no sftp
            "ANSIBLE_ROLES_PATH": str(COLLECTION / "roles"),
            "LC_ALL": "C.UTF-8",
        }
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [str(program), *arguments, *options, str(PLAYBOOKS / name)]
        environment = [f"{key}={value}" for key, value in settings.items()]
        began = time.monotonic()
        done = self.lab.router.namespace.run(["env", *environment, *command], check=False, timeout=TIMEOUT)
        run = PlaybookRun(done.returncode, done.stdout + done.stderr)
        print(f"{time.monotonic() - began:.0f} s: {name} {' '.join(options)}: {run.recap}\n{run.changed}", flush=True)
        if check and run.status:
            raise CommandError(f"ansible-playbook {name}: status {run.status}\n{run.output}")
        return run


def tree(host: Host, *directories: str) -> dict[str, str]:
    """All below these directories of the host: kind, mode, owner and content of each, by path."""
    root = Path(f"/proc/{host.holder_pid}/root")
    found: dict[str, str] = {}
    for directory in directories:
        for path in (root / directory.lstrip("/")).rglob("*"):
            status = path.lstat()
            what = f"{status.st_mode:o} {status.st_uid}:{status.st_gid} "
            if path.is_symlink():
                what += str(path.readlink())
            elif path.is_file():
                what += sha256(path.read_bytes()).hexdigest()
            found[f"/{path.relative_to(root)}"] = what
    return found

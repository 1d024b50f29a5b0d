"""README.md as its reader does it: installed beside a connection that works, moved, upgraded, removed again.

The commands are the README's, in its order, and so are the files. A lab host has neither network nor systemd nor a new
user's patience, so this much is replaced:

- `python3 -m venv`: without pip; `pip install .`: the tests' own pip installs a wheel of this repository, once, and
  later ones are copies of that; what swanroam depends on is taken from where the tests have it;
- `systemctl`: what the unit that was installed says about user, groups and capabilities is carried out;
- ADDRESS: an address of the host; shorter times in swanroam.yaml, for the guest kernel is slow.

/etc, /opt, /usr/local/sbin and /var/lib are the host's own.
"""

import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from documentation.commands import blocks
from lab import charon as lab_charon
from lab.addressing import Family
from lab.host import Host
from lab.namespace import command
from lab.service import open_ways, restrict_proc
from lab.topology import Lab
from lab.unit import service_of, unit
from lab.waiting import wait_for
from scenarios import remains
from scenarios.test_drop_ins import EXISTING, children
from scenarios.test_drop_ins import install as install_connection

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL = README[README.index("## Install") : README.index("## Commands")]
PROGRAM, MOBILE_ONLY, START, MOVE, UPGRADE, REMOVE = blocks(INSTALL)
MOBILE_CONFIG, CORRESPONDENT_CONFIG = re.findall(r"```yaml\n(.*?)```", INSTALL, re.DOTALL)
(CHILD,) = re.findall(r"```\n(connections .*?)```", INSTALL, re.DOTALL)

OWN = ("/etc", "/opt", "/usr/local/sbin", "/var/lib")
FROM_THE_MACHINE = "passwd group shadow gshadow nsswitch.conf ld.so.cache hosts protocols services strongswan.conf"
SLOW = "sockets: {hold: 5s, stopped_share: 100}\ndefaults: {grace: 1s}\n"
READY = "protected and ready to move"
BUILD = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation"]


@dataclass(slots=True)
class Reader:
    """An administrator at one of the hosts."""

    host: Host
    wheel: Path
    output: Path = field(init=False)
    daemon: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        self.output = self.host.controller.log  # shown when the test fails
        lines = [f"mkdir -p {self.host.directory}/etc; cd /etc"]
        lines += [f"for file in {FROM_THE_MACHINE}; do [ ! -e $file ] || cp -a $file {self.host.directory}/etc; done"]
        lines += [f"mount -t tmpfs -o mode=0755 tmpfs {path}" for path in OWN]
        lines += [f"cp -a {self.host.directory}/etc/. /etc/; mkdir -p /etc/systemd/system /etc/sysusers.d"]
        lines += ["mkdir /etc/strongswan.d /etc/swanctl"]
        lines += [f"mount --bind {self.host.charon.swanctl_directory} /etc/swanctl"]
        lines += [f"ln -s {self.host.charon.socket} /run/charon.vici"]
        self.host.run(["sh", "-e", "-c", "\n".join(lines)])
        self.host.directory.parent.chmod(0o711)
        restrict_proc(self.host)
        open_ways(self.host, {ROOT, Path(sys.prefix), Path(sys.base_prefix)})

    def does(self, block: str, **words: str) -> str:
        """Every command of a block. Returns what the last one prints."""
        printed = ""
        for line in block.splitlines():
            for word, value in words.items():
                line = re.sub(rf"\b{word}\b", value, line)
            printed = self._does(line)
        return printed

    def writes(self, path: str, text: str) -> None:
        """A file of the host."""
        self.host.run(["sh", "-c", f"cat >{path}"], stdin_text=text)

    def _does(self, line: str) -> str:
        match line.split():
            case ["python3", "-m", "venv", place]:
                self._run(f"{sys.executable} -m venv --without-pip {place}")
                packages = f"{place}/lib/python{sysconfig.get_python_version()}/site-packages"
                self.writes(f"{packages}/tests.pth", sysconfig.get_path("purelib") + "\n")
            case [program, "install", *options, "."] if program.endswith("/pip"):
                assert set(options) <= {"--upgrade"}
                self._install(program)
            case ["systemctl", verb, *options, unit]:
                assert (verb, options) in (("restart", []), ("enable", ["--now"]), ("disable", ["--now"]))
                self._systemctl(verb, unit)
            case _:
                return self._run(line)
        return ""

    def _install(self, pip: str) -> None:
        place, copy = Path(pip).parents[1], self.wheel.with_name("installed")
        if not copy.exists():
            options = "--no-index --no-deps --force-reinstall --no-compile"
            self._run(f"{sys.executable} -m pip --python {place}/bin/python install -q {options} {self.wheel}")
            self._run(f"cp -a {place} {copy}")
        self._run(f"cp -a {copy}/. {place}")

    def _run(self, line: str) -> str:
        program = ["env", "-u", "PYTHONPATH", "sh", "-e", "-c", f"cd {ROOT}; {line}"]
        return self.host.run(program, timeout=180).stdout

    def _systemctl(self, verb: str, unit: str) -> None:
        if unit == "strongswan":
            self.host.charon.stop()
            self.host.charon.start()
            return
        assert unit == "swanroam"
        if verb in ("restart", "disable"):
            assert self.daemon is not None
            self.daemon.terminate()
            assert self.daemon.wait(timeout=60) == 0, self.output.read_text(encoding="utf-8")
        if verb in ("restart", "enable"):
            self._start()

    def _start(self) -> None:
        options = unit(Path(f"/proc/{self.host.holder_pid}/root/etc/systemd/system/swanroam.service"))
        user, group, groups = (
            self.host.run(["id", f"-{letter}", options["User"]]).stdout.split() for letter in ("u", "g", "G")
        )
        for base, kind in (("/var/lib", "State"), ("/run", "Runtime")):
            directory, mode = f"{base}/{options[f'{kind}Directory']}", options[f"{kind}DirectoryMode"]
            self.host.run(["install", "-d", "-o", user[0], "-g", group[0], "-m", mode, directory])
        runs_as = service_of(options, int(user[0]), int(group[0]), tuple(map(int, groups)))
        with self.output.open("a", encoding="utf-8") as output:
            argv = ["env", "-u", "PYTHONPATH", *runs_as.wrap(shlex.split(options["ExecStart"]))]
            self.daemon = self.host.popen(argv, stdout=output.fileno(), stderr=output.fileno())
        wait_for(self._answers, 60, f"swanroam of {self.host.name} answers", lambda: self.output.read_text("utf-8"))

    def _answers(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, self.output.read_text(encoding="utf-8")
        return self.host.run(["env", "-u", "PYTHONPATH", "swanroam", "status"], check=False).returncode == 0

    def sees(self, text: str, timeout: float = 60.0) -> str:
        """Waits until `swanroam status` has these words; returns all that it says."""
        wait_for(
            lambda: text in self._run("swanroam status"),
            timeout,
            f"{self.host.name}: status has '{text}'",
            lambda: self._run("swanroam status") + self.output.read_text(encoding="utf-8"),
            poll=0.5,
        )
        return self._run("swanroam status")

    def files(self) -> list[str]:
        """Everything in the directories that are the host's own, but what is left of having made a user."""
        return sorted(self.host.run(["find", *OWN, "!", "-name", "*-", "!", "-name", ".pwd.lock"]).stdout.splitlines())


@pytest.fixture
def readers(make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> tuple[Lab, Reader, Reader]:
    """The mobile host's administrator and the correspondent's; their connection works, and swanroam is not there."""
    included = lab_charon._STRONGSWAN_CONF + "\ninclude /etc/strongswan.d/*.conf\n"
    monkeypatch.setattr(lab_charon, "_STRONGSWAN_CONF", included)
    lab = make_lab(family=Family.IPV4, roam_events=True)
    sites = (
        (lab.correspondent, "mobile", "%any", lab.mobile, "none"),
        (lab.mobile, "correspondent", str(lab.correspondent.address), lab.correspondent, "start"),
    )
    for host, name, remote_addrs, peer, start_action in sites:
        values = {"name": name, "remote_addrs": remote_addrs, "start_action": start_action}
        install_connection(host, "site", EXISTING % {**values, "own": host.identity, "peer": peer.identity})
    command([sys.executable, *BUILD, "-w", str(lab.directory), str(ROOT)], timeout=180)
    (wheel,) = lab.directory.glob("*.whl")
    correspondent, mobile = Reader(lab.correspondent, wheel), Reader(lab.mobile, wheel)
    lab.correspondent.charon.start()
    lab.mobile.charon.start()
    lab.mobile.charon.wait_established("correspondent", "web")
    lab.correspondent.charon.wait_established("mobile", "web")
    return lab, mobile, correspondent


@pytest.mark.timeout(900)
def test_from_a_working_connection_to_swanroam_and_back(readers: tuple[Lab, Reader, Reader]) -> None:
    lab, mobile, correspondent = readers
    began_in = {host.name: host.network for host in lab.hosts}
    before = {host.name: host.snapshot() for host in lab.hosts}
    files = {reader.host.name: reader.files() for reader in (mobile, correspondent)}

    other = re.sub(r" *start_action.*\n", "", CHILD).replace("correspondent", "mobile")
    other = other.replace("local_ts", "x").replace("remote_ts", "local_ts").replace("x =", "remote_ts =")
    for reader, config, child in ((correspondent, CORRESPONDENT_CONFIG, other), (mobile, MOBILE_CONFIG, CHILD)):
        reader.does(PROGRAM)
        if reader is mobile:
            reader.does(MOBILE_ONLY)
        reader.writes("/etc/swanroam/swanroam.yaml", config + SLOW)
        reader.writes("/etc/swanctl/conf.d/swanroam.conf", child)
        print(reader.does(START))
    for reader in (mobile, correspondent):
        print(reader.sees(READY))

    bulk = lab.traffic.tcp_bulk(lab.mobile, lab.correspondent, rate=50_000)
    lab.mobile.add_address("net-b")
    lab.mobile.network = "net-b"
    print(mobile.does(MOVE, ADDRESS=str(lab.mobile.address)))
    lab.mobile.remove_address(began_in[lab.mobile.name])
    for reader in (mobile, correspondent):
        status = reader.sees(READY)
        assert str(lab.mobile.address) in status
        print(status)

    for reader in (mobile, correspondent):
        reader.does(UPGRADE)
        reader.sees(READY)
    print(bulk.stop().check())

    for reader in (correspondent, mobile):  # the one that connects is the last to restart its charon
        reader.does(REMOVE)
    lab.mobile.charon.wait_established("correspondent", "web")
    lab.correspondent.charon.wait_established("mobile", "web")
    for reader in (mobile, correspondent):
        assert set(children(reader.host)) == {"web"}
        assert reader.files() == files[reader.host.name]
        remains.assert_same(reader.host, before[reader.host.name], began_in, "before swanroam came")

"""One host's IKE daemon: a real charon with configuration files of its own, started, asked and stopped."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vici

from lab.namespace import CommandError, Namespace
from lab.waiting import wait_for

CHARON = "/usr/lib/ipsec/charon"
APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
START_TIMEOUT = 30.0
CONNECTION_TIMEOUT = 30.0

_STRONGSWAN_CONF = """
charon {{
    # Mobility is swanroam's business: charon neither moves by itself nor keeps routes of its own.
    install_routes = no
    install_virtual_ip = no
    {group}
    retransmit_timeout = 1.0
    retransmit_base = 1.5
    # Seconds that a replaced inbound SA stays; a test that waits for it to go should not wait long.
    delete_rekeyed_delay = 1
    port = 500
    port_nat_t = 4500
    # Two of the machine's plugins would need what a lab host lacks, or listen to the outside.
    load_modular = no
    load = {plugins}
    filelog {{
        lab {{
            path = {log}
            time_format = %H:%M:%S
            time_add_ms = yes
            ike_name = yes
            flush_line = yes
            default = 1
            ike = 2
            knl = 2
            cfg = 1
        }}
    }}
    plugins {{
        vici {{
            socket = unix://{socket}
        }}
        kernel-netlink {{
            roam_events = {roam_events}
        }}
    }}
}}
"""
_PLUGINS = (
    "random nonce openssl aes sha1 sha2 hmac kdf gcm xcbc gmp pem pkcs1 pkcs8 pubkey x509 constraints revocation "
    "vici kernel-netlink socket-default updown"
)


def unconfined(program: str, directory: Path) -> str:
    """A program's path; where AppArmor confines programs by their paths, that of a copy in the lab's directory."""
    found = shutil.which(program)
    if found is None:
        raise CommandError(f"{program} is not installed: tests/install-packages installs it")
    try:
        enabled = APPARMOR.read_text(encoding="ascii").startswith("Y")
    except FileNotFoundError:
        enabled = False
    if not enabled:
        return found
    copy = directory / Path(found).name
    if not copy.exists():
        shutil.copy(found, copy)
    return str(copy)


@dataclass(frozen=True, slots=True)
class Association:
    """A CHILD_SA as charon reports it, with what matters of its IKE_SA."""

    connection: str
    ike_id: int
    ike_state: str
    local: str
    remote: str
    child: str
    mode: str
    state: str
    spi_in: int
    spi_out: int
    local_ts: tuple[str, ...]
    remote_ts: tuple[str, ...]


def _text(value: Any) -> Any:
    """vici's bytes as text, however deep."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _text(item) for key, item in value.items()}
    return value


@dataclass(slots=True)
class Charon:
    """charon of one host. Its VICI socket is a path that everybody on the machine can reach."""

    namespace: Namespace
    directory: Path
    """Holds strongswan.conf, swanctl/, the log and the socket."""
    roam_events: bool = False
    group: str | None = None
    """That it runs as, and that its VICI socket belongs to."""
    configuration: str | None = None
    """strongswan.conf as the host sees it; None: the lab's own."""
    process: subprocess.Popen[str] | None = field(default=None)

    @property
    def socket(self) -> Path:
        return self.directory / "charon.vici"

    @property
    def log(self) -> Path:
        return self.directory / "charon.log"

    @property
    def swanctl_directory(self) -> Path:
        return self.directory / "swanctl"

    @property
    def environment(self) -> dict[str, str]:
        """For every strongSwan program of this host."""
        return {
            "STRONGSWAN_CONF": self.configuration or str(self.directory / "strongswan.conf"),
            "SWANCTL_DIR": str(self.swanctl_directory),
        }

    def start(self) -> None:
        """Start the daemon and load the connections; returns when it answers."""
        text = _STRONGSWAN_CONF.format(
            plugins=_PLUGINS,
            log=self.log,
            socket=self.socket,
            roam_events="yes" if self.roam_events else "no",
            group=f"group = {self.group}" if self.group else "",
        )
        (self.directory / "strongswan.conf").write_text(text, encoding="utf-8")
        self.socket.unlink(missing_ok=True)
        output = (self.directory / "charon.output").open("a", encoding="utf-8")
        with output:
            self.process = self.namespace.popen(
                [unconfined(CHARON, self.directory)],
                stdout=output.fileno(),
                stderr=output.fileno(),
                env=self.environment,
            )
        wait_for(self._answers, START_TIMEOUT, f"charon of {self.namespace.name} answers", self.log_tail)
        self.load()

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            output = (self.directory / "charon.output").read_text(encoding="utf-8", errors="replace")
            raise CommandError(f"charon of {self.namespace.name} ended: {output}\n{self.log_tail()}")
        try:
            with self.session() as session:
                session.version()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Orderly: the daemon deletes its SAs and tells the peers."""
        if self.process is not None:
            for pid in self._pids():
                os.kill(pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired as error:
                raise CommandError(f"charon of {self.namespace.name} does not end\n{self.log_tail()}") from error
            self.process = None

    def kill(self) -> None:
        """As a crash would: what it has in the kernel stays."""
        if self.process is not None:
            for pid in self._pids():
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _pids(self) -> list[int]:
        assert self.process is not None
        return [self.process.pid] if self.process.poll() is None else []

    @contextlib.contextmanager
    def session(self) -> Iterator[vici.Session]:
        """A VICI session, for whatever has no method here."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(CONNECTION_TIMEOUT)
            connection.connect(str(self.socket))
            yield vici.Session(connection)
        finally:
            connection.close()

    def swanctl(self, *arguments: str, check: bool = True, timeout: float = 60.0) -> str:
        """The command line tool, e.g. `swanctl("--list-sas")`. Returns what it prints."""
        command, *rest = arguments
        argv = [unconfined("swanctl", self.directory), command, *rest, "--uri", f"unix://{self.socket}"]
        environment = [f"{name}={value}" for name, value in self.environment.items()]
        done = self.namespace.run(["env", *environment, *argv], check=check, timeout=timeout)
        return done.stdout + done.stderr

    def load(self) -> None:
        """Load (again) what stands in the swanctl directory."""
        self.swanctl("--load-all", "--noprompt")

    def initiate(self, connection: str, child: str) -> None:
        """Establish a CHILD_SA, and its IKE_SA where there is none; returns when it stands."""
        self.swanctl("--initiate", "--ike", connection, "--child", child, "--timeout", "20")

    def sas(self) -> list[dict[str, Any]]:
        """The IKE_SAs as VICI reports them, each with its name under "name" and its "child-sas"."""
        with self.session() as session:
            return [{"name": name, **_text(sa)} for reply in session.list_sas() for name, sa in reply.items()]

    def associations(self) -> list[Association]:
        """The CHILD_SAs that are installed or being rekeyed."""
        found = []
        for ike in self.sas():
            for child in ike.get("child-sas", {}).values():
                if "spi-in" in child:
                    found.append(
                        Association(
                            connection=ike["name"],
                            ike_id=int(ike["uniqueid"]),
                            ike_state=ike["state"],
                            local=ike["local-host"],
                            remote=ike["remote-host"],
                            child=child["name"],
                            mode=child["mode"],
                            state=child["state"],
                            spi_in=int(child["spi-in"], 16),
                            spi_out=int(child["spi-out"], 16),
                            local_ts=tuple(child["local-ts"]),
                            remote_ts=tuple(child["remote-ts"]),
                        )
                    )
        return found

    def wait_established(self, connection: str, *children: str, timeout: float = 30.0) -> None:
        """Wait until these CHILD_SAs of a connection are installed."""
        wanted = set(children)
        wait_for(
            lambda: wanted <= {sa.child for sa in self.associations() if sa.connection == connection},
            timeout,
            f"{self.namespace.name}: {connection} has CHILD_SAs {', '.join(children)}",
            self.log_tail,
        )

    def log_lines(self, pattern: str = "") -> list[str]:
        """Lines of the log in which the regular expression is found."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if re.search(pattern, line)]

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join([f"--- charon of {self.namespace.name}, end of {self.log.name}", *self.log_lines()[-lines:]])

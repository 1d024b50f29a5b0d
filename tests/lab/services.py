"""Packaged servers, each in a host, set up as their users would: listening on all addresses, on their usual ports.

    with Services(lab.directory) as services:
        sshd = services.sshd(lab.correspondent)
        lab.mobile.run([*sshd.ssh, str(lab.correspondent.address), "uptime"])

Configuration, keys and data are in the lab's directory. At the block's end the servers have ended.
"""

import contextlib
import os
import random
import signal
import subprocess
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from lab.addressing import IPAddress
from lab.host import Host
from lab.namespace import CommandError, command
from lab.waiting import wait_for

SYSTEM_PYTHON = "/usr/bin/python3"
"""The distribution's, which has the distribution's packages."""
WEBSOCKET_SERVER = Path(__file__).parent / "programs" / "websocket_server.py"
START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
CHUNK = 1_000_000
LISTEN = "0A"
"""State in /proc/net/tcp (include/net/tcp_states.h)."""

_SSHD_CONFIG = """
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
# The lab's directory is in /tmp.
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM yes
PrintMotd no
PidFile none
"""
_SSH_CONFIG = """
Host *
    User root
    IdentityFile {directory}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {directory}/known_hosts
    GlobalKnownHostsFile /dev/null
    HostKeyAlias server
    StrictHostKeyChecking yes
    BatchMode yes
"""
_NGINX_CONFIG = """
user root;
pid {directory}/pid;
error_log {directory}/error.log;
worker_processes 1;
daemon off;
events {{ worker_connections 64; }}
http {{
    log_format lab '$connection $connection_requests $status';
    access_log {directory}/access.log lab;
    client_body_temp_path {directory}/temporary;
    proxy_temp_path {directory}/temporary;
    fastcgi_temp_path {directory}/temporary;
    uwsgi_temp_path {directory}/temporary;
    scgi_temp_path {directory}/temporary;
    server {{
        listen {port};
        listen [::]:{port};
        root {directory}/files;
    }}
}}
"""
_REDIS_CONFIG = """
port {port}
bind 0.0.0.0 ::
protected-mode no
dir {directory}
save ""
"""


@dataclass(slots=True)
class Service:
    """One running server. `directory` holds all that is its own."""

    host: Host
    port: int
    directory: Path
    process: "subprocess.Popen[str]"

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.directory / "output"

    def stop(self) -> None:
        """SIGTERM to it and its children; returns when it has ended. Raises CommandError when it does not."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"{self.process.args}: does not end: {self._said()}") from error

    def wait_listening(self) -> None:
        """Returns once it listens on its port. Raises CommandError when it has ended instead, LabTimeoutError."""
        wait_for(self._listens, START_TIMEOUT, f"{self.process.args} listens on {self.port}", self._said)

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise CommandError(f"{self.process.args} has ended: {self._said()}")
        return self.port in listening_ports(self.host)

    def _said(self) -> str:
        return self.log.read_text("utf-8", "replace")


@dataclass(slots=True)
class Sshd(Service):
    """An OpenSSH server with a host key and one user key of its own."""

    @property
    def ssh(self) -> list[str]:
        """The client, with what it needs to know of this server."""
        return ["ssh", "-F", str(self.directory / "ssh_config")]


@dataclass(slots=True)
class Nginx(Service):
    """An HTTP server for the files in `files`."""

    @property
    def files(self) -> Path:
        return self.directory / "files"

    def url(self, address: IPAddress, path: str) -> str:
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"http://{host}:{self.port}/{path}"

    def requests(self) -> list[tuple[int, int, int]]:
        """All requests so far: number of the connection, number of the request on it, HTTP status."""
        lines = (self.directory / "access.log").read_text(encoding="ascii").splitlines()
        return [(int(one), int(two), int(three)) for one, two, three in (line.split() for line in lines)]


S = TypeVar("S", bound=Service)


@dataclass(slots=True)
class Services:
    """Starts servers, and stops them all."""

    directory: Path
    _started: list[Service] = field(default_factory=list)

    def sshd(self, host: Host, port: int = 22) -> Sshd:
        directory = self._directory(host, "sshd")
        for name in ("host_key", "user_key"):
            command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name)])
        host_key = (directory / "host_key.pub").read_text(encoding="ascii")
        (directory / "known_hosts").write_text(f"server {host_key}", encoding="ascii")
        (directory / "ssh_config").write_text(_SSH_CONFIG.format(directory=directory), encoding="utf-8")
        config = _write(directory / "sshd_config", _SSHD_CONFIG, directory, port)
        # sshd wants its empty directory, and to be called by its whole path.
        script = f"mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e -f {config}"
        return self._started_service(Sshd, host, port, directory, ["sh", "-c", script])

    def nginx(self, host: Host, port: int = 80) -> Nginx:
        directory = self._directory(host, "nginx")
        (directory / "files").mkdir()
        config = _write(directory / "nginx.conf", _NGINX_CONFIG, directory, port)
        argv = ["/usr/sbin/nginx", "-c", str(config), "-e", str(directory / "error.log"), "-p", str(directory)]
        return self._started_service(Nginx, host, port, directory, argv)

    def redis(self, host: Host, port: int = 6379) -> Service:
        directory = self._directory(host, "redis")
        config = _write(directory / "redis.conf", _REDIS_CONFIG, directory, port)
        return self._started_service(Service, host, port, directory, ["redis-server", str(config)])

    def iperf3(self, host: Host, port: int = 5201) -> Service:
        directory = self._directory(host, "iperf3")
        return self._started_service(Service, host, port, directory, ["iperf3", "-s", "-p", str(port)])

    def websocket(self, host: Host, port: int = 8765) -> Service:
        """Sends `tick N` every 100 ms to each client, and back what it sends, with `echo ` before it."""
        directory = self._directory(host, "websocket")
        argv = [SYSTEM_PYTHON, str(WEBSOCKET_SERVER), str(port)]
        return self._started_service(Service, host, port, directory, argv)

    def _directory(self, host: Host, name: str) -> Path:
        directory = self.directory / f"{name}-{host.name}"
        directory.mkdir()
        return directory

    def _started_service(self, kind: type[S], host: Host, port: int, directory: Path, argv: list[str]) -> S:
        with (directory / "output").open("w", encoding="utf-8") as output:
            process = host.popen(argv, stdout=output.fileno(), stderr=subprocess.STDOUT)
        service = kind(host, port, directory, process)
        self._started.append(service)
        service.wait_listening()
        return service

    def stop(self) -> None:
        """All servers, the last one first."""
        while self._started:
            self._started.pop().stop()

    def __enter__(self) -> "Services":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def listening_ports(host: Host) -> set[int]:
    """TCP ports with a listener on any address. Source: proc(5), /proc/net/tcp."""
    found: set[int] = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{host.holder_pid}/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
            local, _, state = line.split()[1:4]
            if state == LISTEN:
                found.add(int(local.rpartition(":")[2], 16))
    return found


def make_data(path: Path, size: int, generator: random.Random) -> str:
    """A file with so many random bytes. Returns its SHA-256, in hexadecimal."""
    digest = sha256()
    with path.open("wb") as file:
        for offset in range(0, size, CHUNK):
            chunk = generator.randbytes(min(CHUNK, size - offset))
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _write(path: Path, template: str, directory: Path, port: int) -> Path:
    path.write_text(template.format(directory=directory, port=port), encoding="utf-8")
    return path

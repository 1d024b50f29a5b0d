"""A network namespace with a mount namespace of its own: private /run, /sys as seen from inside.

Names carry the process id of the lab that made them, so labs do not meet, and what a killed one left can be
recognised and removed (`remove_stale`).
"""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

_NAME = re.compile(r"lab(\d+)-")

# The holder keeps the mount namespace alive. /run is private so that daemons of several hosts have one each;
# /sys is mounted again because it shows the network devices of the namespace it was mounted from.
# One process sets all up: starting processes is what takes time on a guest kernel.
_HOLDER = """
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mount -t sysfs sysfs /sys || exit 1
mkdir /run/lock /run/netns
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
ip link set lo up || exit 1
{setup}
echo ready
exec sleep infinity
"""


class CommandError(AssertionError):
    """A command of the lab failed; the message has its output."""


def command(
    argv: list[str], *, stdin_text: str | None = None, check: bool = True, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run and capture. Raises CommandError when it fails (unless not `check`) or takes too long."""
    try:
        done = subprocess.run(argv, input=stdin_text, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(argv)}: not done after {timeout:g} s\n{error.output}") from error
    if check and done.returncode != 0:
        given = f"\n{stdin_text}" if stdin_text else ""
        raise CommandError(f"{' '.join(argv)}: exit status {done.returncode}{given}\n{done.stdout}{done.stderr}")
    return done


class Namespace:
    """Made by the constructor, gone after `delete()` with every process in it."""

    def __init__(self, name: str, sysctl: Mapping[str, int | str] | None = None) -> None:
        """`sysctl`: kernel parameters to set first, as for `sysctl`."""
        self.name = name
        """What it is called in the lab, e.g. "mobile"."""
        self.netns = f"lab{os.getpid()}-{name}"
        """What `ip netns` calls it."""
        self._processes: list[subprocess.Popen[str]] = []
        command(["ip", "netns", "add", self.netns])
        holder = _HOLDER.format(setup=_sysctl_script(sysctl or {}))
        self._holder = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.netns}", "unshare", "-m", "sh", "-c", holder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            self.delete()
            raise CommandError(f"{name}: its mount namespace could not be set up")

    @property
    def holder_pid(self) -> int:
        """A process that lives in both namespaces as long as they do."""
        return self._holder.pid

    @property
    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.holder_pid), "-n", "-m"]

    def run(
        self, argv: Iterable[str], *, stdin_text: str | None = None, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here and capture its output. Raises CommandError when it fails."""
        return command([*self._enter, *argv], stdin_text=stdin_text, check=check, timeout=timeout)

    def popen(
        self,
        argv: Iterable[str],
        *,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a process here, in a session of its own. It is killed at the latest by `delete`."""
        process = subprocess.Popen(
            [*self._enter, *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **env} if env else None,
            start_new_session=True,
            text=True,
        )
        self._processes.append(process)
        return process

    def ip(self, *lines: str, check: bool = True) -> str:
        """`ip` with these arguments. Several lines run as one batch, where options like -6 are not allowed.

        Returns what it prints.
        """
        if len(lines) == 1:
            return self.run(["ip", *lines[0].split()], check=check).stdout
        batch = "\n".join(lines) + "\n"
        return self.run(["ip", *([] if check else ["-force"]), "-batch", "-"], stdin_text=batch, check=check).stdout

    def tc(self, *lines: str, check: bool = True) -> str:
        """`tc` with these arguments; several lines run as one batch. Returns what it prints."""
        batch = "\n".join(lines) + "\n"
        return self.run(["tc", *([] if check else ["-force"]), "-batch", "-"], stdin_text=batch, check=check).stdout

    def sysctl(self, **values: int | str) -> None:
        """Set kernel parameters; in the names `__` stands for a slash: `net__ipv4__ip_forward=1`.

        A parameter that this kernel does not have fails the lab.
        """
        self.run(["sh", "-c", _sysctl_script(values)])

    def pids(self) -> list[int]:
        """Processes in the network namespace, without the holder."""
        listed = command(["ip", "netns", "pids", self.netns], check=False).stdout.split()
        return [int(pid) for pid in listed if int(pid) != self.holder_pid]

    def delete(self) -> None:
        """Kill every process in the namespace and remove it. Works on what is half made."""
        kill_all(self.pids())
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.holder_pid, signal.SIGKILL)
        for process in (*self._processes, self._holder):
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        command(["ip", "netns", "del", self.netns], check=False)


def _sysctl_script(values: Mapping[str, int | str]) -> str:
    return "".join(f"echo {value} > /proc/sys/{name.replace('__', '/')} || exit 1\n" for name, value in values.items())


def kill_all(pids: list[int], timeout: float = 5.0) -> None:
    """SIGKILL, and wait until none of them runs any more (zombies count as gone)."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + timeout
    while any(_runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise CommandError(f"processes {pids} do not die")
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def remove_stale() -> None:
    """Remove the namespaces of labs whose process no longer exists."""
    directory = Path("/run/netns")
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _NAME.match(path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            kill_all([int(pid) for pid in command(["ip", "netns", "pids", path.name]).stdout.split()])
            command(["ip", "netns", "del", path.name], check=False)

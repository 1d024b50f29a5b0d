"""A Debian system in a directory, to install packages in: systemd does not run there, and there is no network.

As an image it can be started by a kernel of its own (live/guest.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / "build" / "roots"
INCLUDED = (
    "python3,python3-prometheus-client,python3-yaml,strongswan-charon,strongswan-swanctl,strongswan-starter,systemd,"
    "iproute2,ifupdown,isc-dhcp-client,networkd-dispatcher,bash-completion,zsh,fish,man-db,groff-base,"
    "systemd-sysv,kmod,libstrongswan-standard-plugins,apparmor,procps,network-manager"
)
"""What the package needs, who calls its hooks, shells, readers of what it documents, what a system boots with."""

_MERGE = """\
set -e
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$MERGED"
"""
_ENTER = f"""{_MERGE}\
mount -t proc proc "$MERGED/proc"
mount -t sysfs sysfs "$MERGED/sys"
mount --rbind /dev "$MERGED/dev"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root DEBIAN_FRONTEND=noninteractive \
    chroot "$MERGED" "$@"
"""


def base(release: str) -> Path:
    """The root of a release, made at the first call and kept."""
    root = CACHE / f"{release}-{sha256(INCLUDED.encode()).hexdigest()[:8]}"
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = CACHE / f"{release}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        # Documentation is looked at; mmdebstrap leaves it in.
        argv = ["mmdebstrap", "--variant=minbase", f"--include={INCLUDED}", release, str(unfinished)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        unfinished.rename(root)
    return root


class DebianRoot:
    """One copy of a root. Every command runs in process, mount and network namespaces of its own; files stay."""

    def __init__(self, directory: Path, *layers: Path) -> None:
        """`directory`: for what is written. `layers`: roots or changes of roots, the uppermost first."""
        self._lower = ":".join(map(str, layers))
        self._directory = directory
        self.upper = directory / "upper"
        """What differs from the layers below."""
        for name in ("upper", "work", "merged"):
            (directory / name).mkdir(parents=True)

    def run(self, *argv: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command in the root. Its standard error is in `stdout` as well, in the order in which it came."""
        return self._unshared(_ENTER, *argv, check=check, stdin=stdin)

    def image(self, file: Path, size: str) -> None:
        """The root as an ext4 file system in a file, for a kernel of its own."""
        self._unshared(f'{_MERGE}mke2fs -q -t ext4 -d "$MERGED" "$@"\n', str(file), size)

    def _unshared(
        self, script: str, *argv: str, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", *argv],
            stdin=subprocess.DEVNULL if stdin is None else None,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
            env={
                **os.environ,
                "LOWER": self._lower,
                "UPPER": str(self.upper),
                "WORK": str(self._directory / "work"),
                "MERGED": str(self._directory / "merged"),
            },
        )
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}"
        return done

    def shell(self, script: str, *, check: bool = True) -> str:
        """What a script of the root's bash prints."""
        return self.run("bash", "-eu", "-s", stdin=script, check=check).stdout

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file, by its absolute path in the root."""
        self.run("sh", "-c", f'mkdir -p "$(dirname {path})"; cat >{path}; chmod {mode:o} {path}', stdin=text)

    def bring(self, file: Path) -> str:
        """A file of the machine's, copied to /root; its path there."""
        target = self.upper / "root" / file.name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(file, target)
        return f"/root/{file.name}"

    def has(self, path: str) -> bool:
        return self.run("test", "-e", path, check=False).returncode == 0

"""Releases of swanroam for the Ansible role: python -m lab.releases DIRECTORY

Makes there, on a machine with a package index, what a guest kernel can't make or makes slowly:

    wheels/            two wheels of this repository, the second with a later version number
    house/             wheels of all that they need
    releases/NAME/     virtual environments with the two, as the role makes them, for /opt/NAME
"""

import base64
import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lab.namespace import command
from lab.services import SYSTEM_PYTHON

ROOT = Path(__file__).resolve().parents[2]
LATER = "99.0.0"
_INSTALL = """
mount --make-rprivate / && mount -t tmpfs tmpfs /opt
{python} -m venv /opt/{name}
/opt/{name}/bin/pip install -q --disable-pip-version-check --no-index --find-links {house} {wheel}
cp -a /opt/{name} {target}
"""


@dataclass(frozen=True, slots=True)
class Releases:
    """What is in such a directory."""

    directory: Path

    @property
    def house(self) -> Path:
        return self.directory / "house"

    @property
    def wheels(self) -> list[Path]:
        """The earlier one first."""
        return sorted((self.directory / "wheels").glob("*.whl"), key=lambda path: f"-{LATER}-" in path.name)

    def installed(self, wheel: Path) -> Path:
        """The virtual environment with this wheel. Its name is that of the directory in /opt."""
        return self.directory / "releases" / name(wheel)


def name(wheel: Path) -> str:
    """What the role calls a wheel's directory in /opt."""
    return f"swanroam-{wheel.name.split('-')[1]}-{sha256(wheel.read_bytes()).hexdigest()[:12]}"


def make(directory: Path) -> Releases:
    """Replaces what is there. Raises CommandError."""
    shutil.rmtree(directory, ignore_errors=True)
    made = Releases(directory)
    (directory / "wheels").mkdir(parents=True)
    (directory / "releases").mkdir()
    pip = [SYSTEM_PYTHON if _has_pip() else sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
    command([*pip, "--wheel-dir", str(made.house), str(ROOT)], timeout=600)
    (wheel,) = made.house.glob("swanroam-*.whl")
    wheel = wheel.rename(directory / "wheels" / wheel.name)
    for one in (wheel, later(wheel)):
        target = made.installed(one)
        script = _INSTALL.format(python=SYSTEM_PYTHON, name=target.name, house=made.house, wheel=one, target=target)
        command(["unshare", "-m", "sh", "-e", "-c", script], timeout=600)
    return made


def _has_pip() -> bool:
    return command([SYSTEM_PYTHON, "-m", "pip", "--version"], check=False).returncode == 0


def later(wheel: Path) -> Path:
    """The same program with the version LATER, beside it."""
    version = wheel.name.split("-")[1]
    target = wheel.with_name(wheel.name.replace(f"-{version}-", f"-{LATER}-"))
    record: list[str] = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as made:
        for entry in source.infolist():
            content = source.read(entry)
            path = entry.filename.replace(f"-{version}.dist-info/", f"-{LATER}.dist-info/")
            if path.endswith("/RECORD"):
                record.append(f"{path},,")
                content = "".join(f"{line}\n" for line in record).encode()
            else:
                if path.endswith("/METADATA"):
                    content = re.sub(rb"(?m)^Version: .*$", f"Version: {LATER}".encode(), content, count=1)
                elif path == "swanroam/__init__.py":
                    content = re.sub(rb"(?m)^__version__ = .*$", f'__version__ = "{LATER}"'.encode(), content)
                digest = base64.urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode()
                record.append(f"{path},sha256={digest},{len(content)}")
            made.writestr(path, content)
    return target


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())

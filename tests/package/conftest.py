"""Roots of the Debian releases, with the package that `make deb` has built, and without."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from package.debian_root import DebianRoot, base
from swanroam import __version__

ROOT = Path(__file__).resolve().parents[2]
DEB = ROOT / "dist" / f"swanroam_{__version__}_all.deb"
RELEASES = ("bookworm", "trixie")

CONFIGURATION = """\
identity: mobile.example.org
peers: [{identity: office.example.org, connection: office, name: office}]
"""
ADMINS_CONNECTION = "connections { office { remote_addrs = 203.0.113.9 } }\n"


@pytest.fixture(scope="session", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(release: str, tmp_path: Path) -> Iterator[DebianRoot]:
    """With strongSwan and a connection of the administrator's, without swanroam."""
    made = DebianRoot(tmp_path / "root", base(release))
    made.put("/etc/swanctl/conf.d/office.conf", ADMINS_CONNECTION)
    yield made
    shutil.rmtree(tmp_path / "root")


@pytest.fixture(scope="session")
def with_package(release: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the installation adds to a root."""
    directory = tmp_path_factory.mktemp(release)
    made = DebianRoot(directory, base(release))
    made.run("dpkg", "-i", made.bring(DEB))
    yield made.upper
    shutil.rmtree(directory)


@pytest.fixture
def installed(release: str, with_package: Path, tmp_path: Path) -> Iterator[DebianRoot]:
    """With the package."""
    yield DebianRoot(tmp_path / "installed", with_package, base(release))
    shutil.rmtree(tmp_path / "installed")

"""What a package promises and a reviewer would overlook: versions that go together, and sources that are pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from swanroam import __version__

ROOT = Path(__file__).resolve().parents[2]


def pinned(name: str) -> dict[str, str]:
    """Packages of a list with their versions; each must have a checksum."""
    lines = (ROOT / "packaging" / name).read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9]+)==([0-9.]+) --hash=sha256:[0-9a-f]{64}", line)
        assert match, line
        found[match[1]] = match[2]
    return found


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_packages_version_is_the_programs() -> None:
    first = (ROOT / "debian/changelog").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"swanroam ({__version__}) ")


OF_DEBIAN = {"pyyaml": "python3-yaml", "prometheus_client": "python3-prometheus-client"}
"""What Debian 12 has new enough."""


def test_every_dependency_is_brought_along_or_debians_and_new_enough() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    vendored = pinned("vendored.txt")
    control = (ROOT / "debian/control").read_text(encoding="utf-8")
    rules = (ROOT / "debian/rules").read_text(encoding="utf-8")
    for wanted in project["dependencies"]:
        name, least = wanted.split(">=")
        if (package := OF_DEBIAN.get(name)) is not None:
            assert f"{package} (>= {least})" in control
            continue
        assert numbers(vendored.pop(name)) >= numbers(least)
        assert f"vendored/{name}-*.whl" in rules
    assert vendored == {}


def test_the_package_needs_the_python_and_strongswan_that_the_readme_names() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    control = (ROOT / "debian/control").read_text(encoding="utf-8")
    for name, least in (("python3", "3.11"), ("strongswan-charon", "5.9.8"), ("charon-systemd", "5.9.8")):
        assert f"{name} (>= {least})" in control
        assert f"{least} or later" in readme


def test_the_demos_hosts_have_the_capabilities_of_the_unit() -> None:
    unit = (ROOT / "systemd/swanroam.service").read_text(encoding="utf-8")
    (bounding,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    compose = (ROOT / "docker/compose.yaml").read_text(encoding="utf-8")
    (added,) = re.findall(r"x-host:.*?cap_add: \[(.*?)\]", compose, re.DOTALL)
    assert {f"CAP_{name}" for name in added.split(", ")} == set(bounding.split())
    assert "privileged:" not in compose

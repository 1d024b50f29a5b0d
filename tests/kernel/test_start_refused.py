"""Hosts on which the daemon can't start, whatever kernel this is: told with the remedy, and nothing is touched."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.readable_config import readable_config
from lab.controller import Finished
from lab.namespace import Namespace
from swanroam.kernel.privileges import Capability

pytestmark = pytest.mark.kernel

CONTROLLER = Path(__file__).parents[2] / "controller"
NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
OTHER_USER = (
    "setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"
)  # fmt: skip
"""May still read the program, which may lie in a directory of root's."""
OTHER_NAMESPACE = ("unshare", "--user", "--map-root-user")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """An empty host."""
    made = Namespace("bare")
    yield made
    made.delete()


@pytest.fixture
def config_file() -> Iterator[Path]:
    with readable_config("vici_socket", "swanctl_file") as path:
        yield path


def swanroam(namespace: Namespace, config_file: Path, command: str, without: tuple[str, ...] = ()) -> Finished:
    """Run a command there; `without` is a program that takes its privileges."""
    argv = ["env", f"PYTHONPATH={CONTROLLER}", *without, sys.executable, "-m", "swanroam.cli.main", command]
    done = namespace.run([*argv, "--config", str(config_file)], check=False)
    print(done.stderr)
    return Finished(done.returncode, done.stdout, done.stderr)


def kernel_state(namespace: Namespace) -> str:
    """Everything that a start makes."""
    commands = "ip link; ip addr; ip rule; ip -6 rule; ip route show table all; ip xfrm policy; ip xfrm state"
    return namespace.run(["sh", "-c", commands]).stdout


def test_a_kernel_that_cannot_carry_is_named_with_the_remedy(namespace: Namespace, config_file: Path) -> None:
    """Either it has no IP-in-IP, or it has and somebody else's device is in the way: both are the kernel's matter."""
    for kind in ("ipip", "ip6tnl"):
        namespace.ip(f"link add other-{kind} type {kind} external", check=False)
    before = kernel_state(namespace)

    done = swanroam(namespace, config_file, "run")

    assert done.status == 5
    lines = [line for line in done.stderr.splitlines() if "carrier" in line]
    assert [line.split()[1] for line in lines] == ["IPv4-in-IPv4", "IPv6-in-IPv6"]
    for line, module in zip(lines, ("ipip", "ip6_tunnel"), strict=True):
        assert f"modprobe {module}" in line or "find it with `ip -d link` (external) and remove it" in line
    assert kernel_state(namespace) == before
    assert [path.name for path in config_file.parent.iterdir()] == ["swanroam.yaml"]


@pytest.mark.parametrize("without", [NO_CAPABILITIES, OTHER_USER, OTHER_NAMESPACE], ids=["caps", "user", "namespace"])
@pytest.mark.parametrize("command", ["run", "cleanup"])
def test_without_privileges_nothing_is_tried(
    namespace: Namespace, config_file: Path, command: str, without: tuple[str, ...]
) -> None:
    before = kernel_state(namespace)

    done = swanroam(namespace, config_file, command, without)

    assert done.status == 6
    assert "CAP_NET_ADMIN" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert kernel_state(namespace) == before


def all_but(*capabilities: Capability) -> tuple[str, ...]:
    """A program that takes these from root."""
    without = ",".join(f"-{capability.name.lower()}" for capability in capabilities)
    return "setpriv", f"--bounding-set={without}", f"--inh-caps={without}"


@pytest.mark.parametrize("capability", Capability, ids=lambda capability: capability.name)
def test_each_capability_that_is_missing_is_named_at_the_start(
    namespace: Namespace, config_file: Path, capability: Capability
) -> None:
    before = kernel_state(namespace)

    done = swanroam(namespace, config_file, "run", all_but(capability))

    assert done.status == 6
    assert [one for one in Capability if str(one) in done.stderr] == [capability]
    assert "swanroam.service" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert kernel_state(namespace) == before


def test_where_no_socket_is_to_move_one_capability_is_enough(namespace: Namespace, config_file: Path) -> None:
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["defaults"] = {"transport": "keep"}
    config_file.write_text(json.dumps(config), encoding="utf-8")

    done = swanroam(namespace, config_file, "run", all_but(*set(Capability) - {Capability.NET_ADMIN}))

    assert done.status not in (0, 6)  # what this machine lacks otherwise: ESP, or charon
    assert "CAP_" not in done.stderr

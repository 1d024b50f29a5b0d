"""Who may use the local API: its group, and nobody else."""

import asyncio
import grp
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.readable_config import readable_config
from lab.controller import Finished
from swanroam.cli.exits import Exit
from swanroam.config import Config, load_config
from swanroam.daemon.api import Api
from swanroam.daemon.run import api_group, api_path, single_instance

pytestmark = pytest.mark.kernel

CONTROLLER = Path(__file__).parents[2] / "controller"
GROUP = "games"
"""One that every Debian has and that this process is not a member of."""
OTHER_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--inh-caps=+dac_read_search",
              "--ambient-caps=+dac_read_search")  # fmt: skip
"""May still read the program, which may lie in a directory of root's. Connecting takes the right to write."""


@pytest.fixture
def config_file() -> Iterator[Path]:
    with readable_config(api_group=GROUP) as path:
        yield path


def ask(config_file: Path, *groups: str) -> Finished:
    """`swanroam move auto` as another user with these supplementary groups, while the API is served."""
    config = load_config(config_file)
    argv = ["env", f"PYTHONPATH={CONTROLLER}", *OTHER_USER, *groups, sys.executable, "-m", "swanroam.cli.main"]
    argv += ["move", "auto", "--config", str(config_file)]

    async def serve() -> Finished:
        api = Api(api_path(config), {"move": refuse}, api_group(config))
        await api.open()
        try:
            return await asyncio.to_thread(call, argv)
        finally:
            await api.close()

    with single_instance(config):
        return asyncio.run(serve())


async def refuse(request: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError(f"this is what came through: {request['command']}")


def call(argv: list[str]) -> Finished:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def test_a_user_outside_of_the_group_is_told_which_one_it_is(config_file: Path) -> None:
    done = ask(config_file, "--clear-groups")

    assert done.status == Exit.PRIVILEGES
    path = api_path(load_config(config_file))
    assert done.stderr == f"swanroam: no permission to use {path}: run as root, or as a member of the group {GROUP}\n"


def test_a_member_of_the_group_may_use_it(config_file: Path) -> None:
    done = ask(config_file, f"--groups={grp.getgrnam(GROUP).gr_gid}")

    assert "this is what came through: move" in done.stderr


def test_the_daemon_needs_the_right_to_give_it_to_the_group(config_file: Path) -> None:
    """A user that is not a member; told at the start."""
    config: Config = load_config(config_file)
    program = f"from swanroam.daemon.run import *; from swanroam.config import load_config\n" \
              f"with single_instance(load_config({str(config_file)!r})): pass"  # fmt: skip
    for directory in (config.runtime_directory, config.state_directory):
        directory.mkdir()
    config.state_directory.chmod(0o777)
    subprocess.run(["chown", "65534:65534", config.runtime_directory], check=True)

    argv = ["env", f"PYTHONPATH={CONTROLLER}", *OTHER_USER, "--clear-groups", sys.executable, "-c", program]
    done = call(argv)

    assert f"cannot give {config.runtime_directory} to the group {GROUP}: Operation not permitted" in done.stderr

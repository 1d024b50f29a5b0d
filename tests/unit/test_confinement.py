"""swanctl is started outside its AppArmor profile, where there is one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from swanroam.ike.confinement import outside_profile


def test_what_the_program_is_to_be_is_said_before_it_is_started(tmp_path: Path) -> None:
    on_exec = tmp_path / "exec"
    on_exec.touch()
    command = outside_profile("printf", ["%s-", "two words", "$0"], on_exec)
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "two words-$0-"
    assert on_exec.read_text(encoding="ascii") == "exec unconfined\n"


def test_where_that_may_not_be_said_the_program_runs_all_the_same(tmp_path: Path) -> None:
    command = outside_profile("printf", ["here"], tmp_path)  # a directory cannot be written
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == ("here", "")


@pytest.mark.parametrize(("program", "there"), [("printf", False), ("/nonexistent/swanctl", True)])
def test_without_apparmor_or_program_nothing_is_put_before_it(tmp_path: Path, program: str, there: bool) -> None:
    on_exec = tmp_path / "exec"
    if there:
        on_exec.touch()
    assert outside_profile(program, ["x"], on_exec) == [program, "x"]

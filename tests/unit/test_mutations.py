"""The list of requirements holds together, and the switch that proves its tests does not fail in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutations.nodes import ROOT, needs_lab
from mutations.patches import Edit, MutationError, Setting
from mutations.registry import Mutation
from mutations.requirements import MUTATIONS, REQUIREMENTS
from mutations.results import KEPT, Outcome, read
from mutations.switch import PATHS, VARIABLE
from mutations.table import TABLE, render

CONTROLLER = ROOT / "controller" / "swanroam"


def test_every_requirement_is_listed_once_and_in_order() -> None:
    assert [requirement.number for requirement in REQUIREMENTS] == list(range(1, 35))


def test_all_named_tests_and_modules_exist() -> None:
    for requirement in REQUIREMENTS:
        for test in requirement.tests:
            needs_lab(test)
        for path in requirement.where:
            assert (CONTROLLER / path).is_file(), f"{requirement.name}: {path}"


def test_a_requirement_without_test_or_mutation_or_that_is_not_met_says_why() -> None:
    for requirement in REQUIREMENTS:
        complete = requirement.tests and requirement.mutations and requirement.state.value == "met"
        assert complete or requirement.remark, requirement.name


def test_mutations_have_names_of_their_own_and_tests_of_their_requirement() -> None:
    assert len(MUTATIONS) == sum(len(requirement.mutations) for requirement in REQUIREMENTS)
    for requirement in REQUIREMENTS:
        for mutation in requirement.mutations:
            assert mutation.tests, mutation.name
            assert set(mutation.tests) <= set(requirement.tests), mutation.name


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_fits_the_program(name: str) -> None:
    MUTATIONS[name].check()


def test_the_table_is_what_the_list_and_the_last_results_say() -> None:
    results = read(KEPT)
    assert TABLE.read_text(encoding="utf-8") == render(results), "make requirements"
    rows = [line.split(" | ")[0] for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| SEC")]
    assert rows == [f"| {requirement.name}" for requirement in REQUIREMENTS]
    assert set(results.noticed) <= set(MUTATIONS)
    assert set(results.tests.values()) <= {Outcome.PASSED}, "the last run was not a good one"
    assert all(results.noticed.values()), "a mutation was not noticed"


@pytest.mark.parametrize(
    "edit",
    [
        Edit("protocol.nothing:f", "a", "b"),
        Edit("protocol.authorisation:authorize", "a", "b"),
        Edit("protocol.authorisation:authorise", "what does not stand there", "b"),
        Edit("protocol.authorisation:authorise", "return Refusal", "b"),  # stands there often
        Edit("protocol.correspondent:Correspondent.nothing", "a", "b"),
        Setting("protocol.correspondent:MAX_NOTHING", 1),
        Setting("protocol.correspondent:MAX_CHANGES", 3.0),  # as it is
    ],
    ids=lambda edit: edit.where,
)
def test_what_is_not_there_cannot_be_changed(edit: Edit | Setting) -> None:
    with pytest.raises(MutationError):
        edit.apply()


def test_two_edits_of_one_function_are_refused() -> None:
    edits = [
        Edit("protocol.authorisation:_taken", f"if address in {which}:", "if False:") for which in ("own", "others")
    ]
    Mutation("one", "", (edits[0],), ()).check()
    with pytest.raises(MutationError, match="only the last counts"):
        Mutation("both", "", tuple(edits), ()).check()


def test_the_switch_reaches_this_process_and_the_programs_that_it_starts(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "from swanroam.protocol.authorisation import unusable\n"
        "from ipaddress import ip_address\n"
        "print(unusable(ip_address('127.0.0.1')), flush=True)\n"
    )

    def run(name: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), VARIABLE: name}
        argv = [sys.executable, "-P", "-c", program]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)

    assert run("").stdout == "a loopback address\n"
    assert run("any-address-is-usable").stdout == "None\n"
    assert "there is no mutation of that name" in run("nonsense").stderr


ENDINGS = """
import time, pytest

def test_passes(): pass
def test_asserts(): assert 1 == 2
def test_misses_an_error():
    with pytest.raises(ValueError): pass
def test_raises(): raise ValueError
@pytest.mark.timeout(0.1)
def test_hangs(): time.sleep(60)
@pytest.fixture
def broken(): raise ValueError
def test_cannot_begin(broken): pass
def test_skips(): pytest.skip()
@pytest.mark.parametrize("number", range(3))
def test_asserts_sometimes(number): assert number != 1
def test_asserts_in_parts(): raise ExceptionGroup("", [AssertionError(), AssertionError()])
"""


def test_only_an_assertion_counts_as_failed(tmp_path: Path) -> None:
    (tmp_path / "test_endings.py").write_text(ENDINGS, encoding="utf-8")
    argv = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "pytest_timeout",
        "-p",
        "mutations.plugin",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        "test_endings.py",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "SWANROAM_OUTCOMES": "outcomes.json", VARIABLE: ""}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the others take longer to load than the tests to run
    subprocess.run([sys.executable, *argv], env=environment, cwd=tmp_path, capture_output=True, check=False)
    found = read(tmp_path / "outcomes.json").tests
    assert {name.removeprefix("test_endings.py::test_"): outcome.value for name, outcome in found.items()} == {
        "passes": "passed",
        "asserts": "failed",
        "misses_an_error": "failed",
        "raises": "broken",
        "hangs": "broken",
        "cannot_begin": "broken",
        "skips": "skipped",
        "asserts_sometimes": "failed",
        "asserts_in_parts": "failed",
    }


def test_swanroam_knows_nothing_of_mutations() -> None:
    for path in CONTROLLER.rglob("*.py"):
        assert "mutation" not in path.read_text(encoding="utf-8").lower(), path

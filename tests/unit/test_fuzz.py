"""The fuzzer's corpus, a short run of each target, and the fuzzer itself. `make fuzz` runs each a million times."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from fuzz.__main__ import TARGETS
from fuzz.engine import kept, read, run

SHORT = {"parser": 1500, "core": 750, "codecs": 1000}
CORPUS = [
    pytest.param(target, path, id=f"{name}-{path.stem}") for name, target in TARGETS.items() for path in kept(target)
]


class Brittle:
    """Breaks at two octets in a row that are the same and not zero."""

    name = "brittle"

    def generate(self, choose: random.Random) -> bytes:
        return choose.randbytes(40)

    def check(self, data: bytes) -> int:
        for one, other in pairwise(data):
            assert one != other or not one
        return 1


@pytest.mark.parametrize(("target", "path"), CORPUS)
def test_what_is_in_the_corpus_does_not_fail(target, path: Path):
    assert target.check(read(path)) >= 1


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_a_corpus(name: str):
    assert len(kept(TARGETS[name])) >= 10


@pytest.mark.parametrize("name", TARGETS)
def test_random_input_does_not_fail(name: str, seed: int, tmp_path: Path):
    outcome = run(TARGETS[name], SHORT[name], seed, tmp_path)
    assert outcome.failure is None, f"{read(outcome.failure).hex()}\n{outcome.error}"
    assert outcome.inputs >= SHORT[name]


def test_what_fails_is_made_short_and_kept_and_fails_again(tmp_path: Path):
    outcome = run(Brittle(), 10_000, 1, tmp_path)
    assert outcome.failure is not None
    assert outcome.failure.parent == tmp_path / "brittle"
    assert "AssertionError" in outcome.error
    data = read(outcome.failure)
    assert len(data) == 2
    with pytest.raises(AssertionError):
        Brittle().check(data)


def test_a_seed_repeats_its_run(tmp_path: Path):
    first, second = (run(Brittle(), 10_000, 7, tmp_path / str(number)) for number in range(2))
    assert first.inputs == second.inputs
    assert first.failure is not None
    assert second.failure is not None
    assert read(first.failure) == read(second.failure)
    for target in TARGETS.values():
        one, other, different = random.Random(5), random.Random(5), random.Random(6)
        inputs = [target.generate(one) for _ in range(50)]
        assert inputs == [target.generate(other) for _ in range(50)]
        assert inputs != [target.generate(different) for _ in range(50)]

"""What a requirement is, and what a mutation."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mutations.patches import Edit, MutationError, Setting


class State(enum.Enum):
    """What the code makes of a requirement, by our own judgement."""

    MET = "met"
    PARTLY = "partly met"
    NOT_MET = "not met"


@dataclass(frozen=True, slots=True)
class Mutation:
    """A defence that is switched off."""

    name: str
    what: str
    """What swanroam does, or omits, when it is."""
    patches: tuple[Edit | Setting, ...]
    tests: tuple[str, ...]
    """Tests of the requirement of which at least one has to fail then; the quick ones."""

    def apply(self) -> None:
        """Change the running program. Raises MutationError."""
        for patch in self.patches:
            patch.apply()

    def check(self) -> None:
        """Raises MutationError when a patch does not fit the program any more, or undoes another one."""
        functions = [patch.where for patch in self.patches if isinstance(patch, Edit)]
        if len(set(functions)) != len(functions):
            raise MutationError(f"{self.name}: of two edits of one function only the last counts; make one of them")
        for patch in self.patches:
            if isinstance(patch, Edit):
                patch.code()
            else:
                patch.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What an attacker must not achieve, and what shows that he does not."""

    number: int
    title: str
    text: str
    sources: str
    """Documents that ask for it, or tell of the attack."""
    where: tuple[str, ...]
    """Modules of the defence, relative to controller/swanroam."""
    tests: tuple[str, ...]
    """Node ids without parameters."""
    mutations: tuple[Mutation, ...] = ()
    state: State = State.MET
    remark: str = ""
    """What is missing, or why there is no test or no mutation."""

    @property
    def name(self) -> str:
        return f"SEC-{self.number:02}"


def at(file: str, *tests: str) -> tuple[str, ...]:
    """Node ids of tests of one file."""
    return tuple(f"tests/{file}::{test}" for test in tests)

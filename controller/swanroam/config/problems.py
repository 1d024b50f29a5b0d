"""What is wrong with a configuration file, as data: collected, sorted by place, printed one a line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in the file as editors count it, from 1. Line 0 means the file as a whole."""

    line: int = 0
    column: int = 0


WHOLE_FILE = Place()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    place: Place
    path: str
    """Where in the structure, as `peers[0].grace`; empty for the file as a whole."""
    message: str
    """What is wrong; after a semicolon, what to write instead."""

    def render(self, file: str) -> str:
        """`file:line:column: path: message`, the form that editors and CI systems jump to."""
        where = f"{file}:{self.place.line}:{self.place.column}" if self.place.line else file
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used. Holds every problem found, in the order of the file."""

    def __init__(self, file: Path | str, problems: tuple[Problem, ...]) -> None:
        self.file = str(file)
        self.problems = tuple(sorted(problems, key=lambda problem: problem.place))
        super().__init__("\n".join(problem.render(self.file) for problem in self.problems))


@dataclass(slots=True)
class Problems:
    """Collector that the readers and checks report to."""

    found: list[Problem] = field(default_factory=list)

    def add(self, place: Place, path: str, message: str) -> None:
        self.found.append(Problem(place, path, message))

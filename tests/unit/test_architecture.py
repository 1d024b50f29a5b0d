"""Who may import whom. A room that imports from the wrong one is no longer what its docstring says."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "controller" / "swanroam"

MAY_IMPORT = {
    "protocol": frozenset[str](),
    "kernel": frozenset[str](),
    "config": frozenset({"inner_address"}),
    "inner_address": frozenset[str](),
    "ike": frozenset({"kernel"}),  # method migrate rings charon's doorbell through the kernel
    "transport": frozenset({"kernel"}),
    "history": frozenset[str](),
    "daemon": frozenset({"config", "history", "ike", "kernel", "protocol", "transport"}),
    "doctor": frozenset({"config", "daemon", "ike", "kernel", "protocol"}),
    "cli": frozenset({"config", "daemon", "doctor", "history", "kernel"}),
}
"""For each room those that it may import, besides itself."""

IMPURE = frozenset(
    ["asyncio", "logging", "os", "random", "secrets", "socket", "structlog", "subprocess", "time", "vici"]
)
"""What the protocol must not touch: no I/O, no clock, no randomness of its own, no logging."""


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """What a module consists of; each module is parsed once for all tests."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@functools.cache
def imports(path: Path) -> set[str]:
    """Full names of everything that a module imports."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(room: str) -> list[Path]:
    single = PACKAGE / f"{room}.py"
    return [single] if single.exists() else sorted((PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_that_it_may(room: str) -> None:
    allowed = {room, *MAY_IMPORT[room], "__version__"}
    for path in modules(room):
        for name in imports(path):
            if name.startswith("swanroam."):
                other = name.split(".")[1]
                assert other in allowed, f"{path.relative_to(PACKAGE)} imports {name}"


def test_every_room_is_known_here() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.name not in ("__init__.py", "__pycache__", "py.typed")}
    assert rooms == set(MAY_IMPORT)


SLOW = frozenset(["pyroute2", "structlog", "vici", "yaml"])
"""What the mover must not import, directly or not: its start is silence for the programs whose sockets move."""


def test_the_mover_imports_nothing_that_takes_long() -> None:
    program = "import sys; import swanroam.transport.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert not {name.split(".")[0] for name in done.stdout.split()} & SLOW


def test_the_protocol_is_pure() -> None:
    for path in modules("protocol"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & IMPURE, f"{path.relative_to(PACKAGE)} imports {sorted(roots & IMPURE)}"


def test_nothing_goes_by_the_time_of_day() -> None:
    """It jumps when somebody sets it. The only stamps are the log's, made by structlog, and the history's."""
    harmless = {"time.monotonic", "time.sleep"}
    of_calendar = {PACKAGE / "doctor" / "clock.py": {"time.time", "time.gmtime", "time.strftime"}}  # of certificates
    for path in set(PACKAGE.rglob("*.py")) - {PACKAGE / "history" / "clock.py"}:
        used = {
            f"time.{node.attr}"
            for node in nodes(path)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
        }
        used = used | {name for name in imports(path) if name.split(".")[0] in ("datetime", "time") and name != "time"}
        assert used <= harmless | of_calendar.get(path, set()), (
            f"{path.relative_to(PACKAGE)} uses {sorted(used - harmless)}"
        )


def test_modules_stay_small_enough_to_be_read() -> None:
    long = {
        str(path.relative_to(PACKAGE)): count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long

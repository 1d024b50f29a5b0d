"""Tests by their node ids without parameters, like `tests/unit/test_binding.py::test_no_address_stands_twice`."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LAB = "pytest.mark.lab"


def needs_lab(node: str) -> bool:
    """It is marked so, alone or with its module. Raises LookupError when there is no such test, or more than one."""
    file, _, name = node.partition("::")
    marks, tests = _marks_and_tests(file)
    found = [test for test in tests if test.name == name]
    if len(found) != 1:
        raise LookupError(f"{node}: there are {len(found)} such tests")
    return any(LAB in ast.unparse(mark) for mark in (*marks, *found[0].decorator_list))


@functools.cache
def _marks_and_tests(file: str) -> tuple[list[ast.expr], list[ast.FunctionDef | ast.AsyncFunctionDef]]:
    path = ROOT / file
    if not path.is_file():
        raise LookupError(f"{file}: there is no such file")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    marks = [
        node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    return marks, [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

"""How a defence is switched off: a function of swanroam gets other code, in which one piece of its source is replaced.

The function object stays, so whoever has imported it by name calls the changed one. What is not found exactly once is
an error: a mutation that does nothing would pass for a defence that no test can see.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any


class MutationError(Exception):
    """What was to be changed is not there, or not as it was; the message says what to look at."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In the function `where`, the text `old` becomes `new`."""

    where: str
    """`package.module:function` or `package.module:Class.method`; without the leading `swanroam.`."""
    old: str
    new: str

    def apply(self) -> None:
        """Change the running program. Raises MutationError."""
        module, name = self._place()
        code = self.code()
        _function(module, name).__code__ = code

    def code(self) -> CodeType:
        """The changed code. Raises MutationError."""
        module, name = self._place()
        source = inspect.getsource(module)
        first, last = _lines(_parsed(source), name.split("."), self.where)
        lines = source.splitlines(keepends=True)
        text = "".join(lines[first:last])
        if (count := text.count(self.old)) != 1:
            raise MutationError(f"{self.where}: {self.old!r} stands there {count} times, not once")
        lines[first:last] = [text.replace(self.old, self.new)]
        compiled = compile("".join(lines), str(module.__file__), "exec", dont_inherit=True)
        found = [code for code in _codes(compiled) if code.co_qualname == name]
        if len(found) != 1:
            raise MutationError(f"{self.where}: {len(found)} functions have that name")
        return found[0]

    def _place(self) -> tuple[Any, str]:
        module, _, name = self.where.partition(":")
        try:
            return importlib.import_module(f"swanroam.{module}"), name
        except ImportError as error:
            raise MutationError(f"{self.where}: {error}") from error


@dataclass(frozen=True, slots=True)
class Setting:
    """The constant `where` has another value, for the code of that module."""

    where: str
    """`package.module:NAME`; where it is used, which may not be where it is defined."""
    value: object

    def apply(self) -> None:
        """Change the running program. Raises MutationError."""
        self.check()
        module, _, name = self.where.partition(":")
        setattr(importlib.import_module(f"swanroam.{module}"), name, self.value)

    def check(self) -> None:
        """Raises MutationError when there is no such constant, or it has that value anyhow."""
        name, _, attribute = self.where.partition(":")
        try:
            present = getattr(importlib.import_module(f"swanroam.{name}"), attribute)
        except (ImportError, AttributeError) as error:
            raise MutationError(f"{self.where}: {error}") from error
        if present == self.value:
            raise MutationError(f"{self.where} is {self.value!r} anyhow")


@functools.cache
def _parsed(source: str) -> ast.Module:
    """Of each module there are several mutations."""
    return ast.parse(source)


def _lines(tree: ast.Module, names: list[str], where: str) -> tuple[int, int]:
    """First and last line of a definition, as bounds of a slice."""
    body: list[ast.stmt] = tree.body
    for name in names:
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        found = [node for node in body if isinstance(node, definitions) and node.name == name]
        if len(found) != 1:
            raise MutationError(f"{where}: {len(found)} definitions of {name}")
        body = found[0].body
    assert found[0].end_lineno is not None
    return found[0].lineno - 1, found[0].end_lineno


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _function(module: Any, name: str) -> FunctionType:
    """The function itself, behind what decorators have made of it."""
    found: Any = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    found = inspect.unwrap(found)
    if not isinstance(found, FunctionType):
        raise MutationError(f"{module.__name__}:{name} is {found!r}, not a function")
    return found

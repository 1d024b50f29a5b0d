"""The files that are made of the code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from documentation import json_schema, reference

ROOT = Path(__file__).resolve().parents[2]

PAGES: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "configuration.md": reference.render,
    ROOT / "docs" / "schemas" / "swanroam.schema.json": json_schema.render,
}
"""Each with what makes its text."""

"""The files that are made of the code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import schemas
from documentation import json_schema, metrics, reference

ROOT = Path(__file__).resolve().parents[2]

PAGES: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "configuration.md": reference.render,
    ROOT / "docs" / "schemas" / "swanroam.schema.json": json_schema.render,
    metrics.DOCUMENT: metrics.render,
    **schemas.PAGES,
}
"""Each with what makes its text."""

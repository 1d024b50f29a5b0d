"""Writes the schemas: `make docs`."""

from __future__ import annotations

from schemas import PAGES

for path, text in PAGES.items():
    path.write_text(text(), encoding="utf-8")
    print(path)

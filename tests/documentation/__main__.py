"""Writes what is made of the code: `make docs`."""

from __future__ import annotations

from documentation.pages import PAGES

for path, render in PAGES.items():
    path.parent.mkdir(exist_ok=True)
    path.write_text(render(), encoding="utf-8")
    print(path)

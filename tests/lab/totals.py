"""The last line of `make test`: what all parts counted. Fails when a part has no record, or ran no test.

The tests that are marked `both` must have run in the kernel's part and in the lab.
"""

import json
import sys
from pathlib import Path

_BOTH = ("kernel", "lab")


def total(records: dict[str, dict[str, int] | None]) -> tuple[str, bool]:
    """The line, and whether all is well. A record that is None is of a part that did not run."""
    parts, fine = [], True
    passed = failed = skipped = 0
    for name, record in records.items():
        if record is None:
            parts.append(f"{name} did not run")
            fine = False
            continue
        bad = record.get("failed", 0) + record.get("error", 0) + record.get("dead", 0)
        parts.append(f"{name} {record.get('passed', 0)}")
        passed += record.get("passed", 0)
        failed += bad
        skipped += record.get("skipped", 0)
        fine = fine and not bad and record.get("passed", 0) > 0
        if name in _BOTH and not record.get("both", 0):
            parts.append(f"{name} without those that run in both")
            fine = False
    line = f"{passed} passed, {failed} failed, {skipped} skipped ({', '.join(parts)})"
    return line, fine


def main(paths: list[str]) -> int:
    records: dict[str, dict[str, int] | None] = {}
    for path in map(Path, paths):
        try:
            records[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            records[path.stem] = None
    line, fine = total(records)
    print(f"swanroam: {line}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

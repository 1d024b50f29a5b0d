"""The table of metrics in docs/metrics.md, from the code.

Between the two comments of the document everything is replaced.
"""

from pathlib import Path

from swanroam.daemon.metrics import METRICS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
BEGIN = "<!-- made by `make docs` from controller/swanroam/daemon/metrics.py -->\n"
END = "<!-- end of what is made -->\n"


def table() -> str:
    """As Markdown."""
    lines = ["| metric | type | what | labels |", "|---|---|---|---|"]
    for definition in METRICS:
        labels = ", ".join(f"`{label}`" for label in definition.labels)
        if len(definition.labels) == 1:
            labels += f": {definition.values}"
        elif definition.values:  # which name each label
            labels = definition.values
        lines.append(f"| `{definition.name}` | {definition.kind.value} | {definition.help} | {labels} |")
    return "\n".join(lines) + "\n"


def replaced(document: str) -> str:
    """A document with the table of now. Raises ValueError when it has no place for it."""
    before, _, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError("the document lacks the comments between which the table stands")
    return before + BEGIN + table() + END + after


def render() -> str:
    """The document as it is, with the table of now. Raises ValueError when it has no place for it."""
    return replaced(DOCUMENT.read_text(encoding="utf-8"))

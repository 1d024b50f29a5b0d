"""A configuration file that every user may read."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def readable_config(*own: str, **keys: str) -> Iterator[Path]:
    """A right configuration in a directory of its own, which is open to all. `own`: keys whose value is a file there,
    beside its two directories; `keys`: others."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        path = directory / "swanroam.yaml"
        config = {
            "identity": "mobile.example.org",
            "state_directory": f"{directory}/state",
            "runtime_directory": f"{directory}/run",
            "peers": [{"identity": "server.example.org", "connection": "server"}],
            **{key: f"{directory}/{key}" for key in own},
            **keys,
        }
        path.write_text(json.dumps(config), encoding="utf-8")
        yield path

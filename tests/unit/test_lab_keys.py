"""What looks for keys where they must not be finds them in every form in which they could get there."""

import base64
import json
import random
from pathlib import Path

import pytest

from lab.keys import PART, Keys, files_with

KEY = random.Random(1).randbytes(PART + 4)
OTHER = random.Random(2).randbytes(PART + 4)

FORMS = {
    "raw": KEY,
    "hex": KEY.hex().encode(),
    "upper case": KEY.hex().upper().encode(),
    "with colons": KEY.hex(":").encode(),
    "with blanks": KEY.hex(" ").encode(),
    "repr": repr(KEY).encode(),
    "repr in JSON": json.dumps({"key": str(KEY)}).encode(),
    "numbers": json.dumps(list(KEY)).encode(),
    "base64": base64.b64encode(KEY),
    "base64 one further": base64.b64encode(b"=" + KEY),
    "base64 two further": base64.b64encode(b"==" + KEY),
    "base64 for URLs": base64.urlsafe_b64encode(KEY),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_key_is_found_in_every_form(form: str) -> None:
    text = b'{"event": "' + FORMS[form] + b'"}\n'

    assert Keys({KEY[:PART]}).seen_in(text)
    assert Keys({OTHER[:PART], KEY[:PART]}).seen_in(text)
    assert not Keys({OTHER[:PART]}).seen_in(text)


def test_files_with_a_key_are_named_but_not_the_one_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "swanctl").mkdir()
    for name in ("swanroam.log", "swanctl/secrets.conf", "swanctl/swanctl.conf"):
        (tmp_path / name).write_bytes(KEY if name != "swanctl/swanctl.conf" else OTHER)

    assert files_with(Keys({KEY[:PART]}), tmp_path) == ["swanroam.log"]

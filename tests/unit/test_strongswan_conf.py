"""The drop-ins of strongswan-conf/ and the examples of docs/: read by the real swanctl and by the real loader."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from swanroam.config import Config, load_config
from swanroam.config.model import DEFAULT_CHILD, DEFAULT_PREFIX, ControlSettings, FilterMethod
from swanroam.ike.associations import Mode
from swanroam.ike.definitions import ConnectionDefinition, Definitions, read_definitions
from swanroam.ike.selectors import TrafficSelector
from swanroam.inner_address import inner_address

ROOT = Path(__file__).resolve().parents[2]
SWANCTL = ROOT / "strongswan-conf" / "swanctl"
STRONGSWAN = ROOT / "strongswan-conf" / "strongswan.d"
EXAMPLES = ROOT / "docs" / "examples"
MOBILE, CORRESPONDENT, GATEWAY = (f"{name}.example.org" for name in ("mobile", "correspondent", "gateway"))
CERTIFICATES = ("mobile", "correspondent", "gateway")
Deploy = Callable[..., Definitions]
OPTIONS = Path("/usr/share/strongswan/templates/config")
"""Debian's and Ubuntu's templates, in which every option of charon stands."""

EXISTING = """
connections {
    %(name)s {
        version = 2
        remote_addrs = %(remote_addrs)s
        local_addrs = 192.0.2.20
        encap = no
        local {
            auth = psk
            id = %(own)s
        }
        remote {
            auth = psk
            id = %(peer)s
        }
        children {
            web {
                mode = transport
                local_ts = dynamic[tcp]
                start_action = trap
            }
        }
    }
    unrelated {
        remote_addrs = 198.51.100.1
        children {
            office {
                remote_ts = 10.0.0.0/8
            }
        }
    }
}
"""


@pytest.fixture
def deploy(tmp_path: Path) -> Deploy:
    """Puts drop-ins where an administrator puts them, and reads all with swanctl."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "swanctl.conf").write_text("include conf.d/*.conf\n")
    (tmp_path / "x509").mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null"]
    first = tmp_path / "x509" / f"{CERTIFICATES[0]}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", *key, "-subj", "/CN=any", "-out", str(first)], check=True, capture_output=True
    )
    for name in CERTIFICATES[1:]:
        shutil.copy(first, tmp_path / "x509" / f"{name}.pem")

    def read(**files: Path | str) -> Definitions:
        for name, content in files.items():
            text = content.read_text(encoding="utf-8") if isinstance(content, Path) else content
            (tmp_path / "conf.d" / f"{name}.conf").write_text(text, encoding="utf-8")
        definitions = asyncio.run(read_definitions(environment={"SWANCTL_DIR": str(tmp_path)}))
        assert definitions.complaints == ()
        return definitions

    return read


def inner(identity: str) -> tuple[TrafficSelector, ...]:
    return (TrafficSelector.parse(f"{inner_address(identity, DEFAULT_PREFIX)}/128"),)


def assert_control_child(connection: ConnectionDefinition, own: str, peer: str | None) -> None:
    """`peer` is None where the mobile hosts narrow the prefix."""
    control = connection.children[DEFAULT_CHILD]
    assert control.mode is Mode.TUNNEL
    assert control.local_ts == inner(own)
    assert control.remote_ts == (inner(peer) if peer else (TrafficSelector.parse(str(DEFAULT_PREFIX)),))
    sections = connection.message["children"]
    assert isinstance(sections, dict)
    section = sections[DEFAULT_CHILD]
    assert isinstance(section, dict)
    mark = section["set_mark_out"]
    assert isinstance(mark, bytes)
    assert int(mark, 0) == ControlSettings.__dataclass_fields__["mark"].default


def assert_data_child(connection: ConnectionDefinition, name: str = "data") -> None:
    data = connection.children[name]
    assert data.mode is Mode.TRANSPORT
    assert all(selector.is_dynamic for selector in (*data.local_ts, *data.remote_ts))


@pytest.mark.parametrize("kind", ["psk", "certificates"])
@pytest.mark.parametrize(
    ("role", "name", "own", "peer"),
    [("mobile", "correspondent", MOBILE, CORRESPONDENT), ("correspondent", "mobile", CORRESPONDENT, MOBILE)],
)
def test_complete_connection_loads_and_can_move(
    deploy: Deploy, kind: str, role: str, name: str, own: str, peer: str
) -> None:
    definitions = deploy(swanroam=SWANCTL / role / f"{kind}.conf")
    assert list(definitions) == [name]
    connection = definitions[name]
    assert (connection.local_ids, connection.remote_ids) == ((own,), (peer,))
    assert connection.unique == "no"
    assert_data_child(connection)
    assert_control_child(connection, own, peer)
    starts = {child: section.get("start_action") for child, section in connection.message["children"].items()}
    assert set(starts.values()) == ({b"start"} if role == "mobile" else {None})


@pytest.mark.parametrize("site_first", [True, False], ids=["site file first", "drop-in first"])
@pytest.mark.parametrize(
    ("role", "name", "remote_addrs", "own", "peer"),
    [
        ("mobile", "home", "vpn.example.org", MOBILE, CORRESPONDENT),
        ("correspondent", "roadwarrior", "%any", CORRESPONDENT, MOBILE),
    ],
)
def test_existing_connection_gets_the_control_child_and_keeps_all_it_has(
    deploy: Deploy, role: str, name: str, remote_addrs: str, own: str, peer: str, site_first: bool
) -> None:
    site = EXISTING % {"name": name, "remote_addrs": remote_addrs, "own": own, "peer": peer}
    before = deploy(b_site=site)
    file = "c_swanroam" if site_first else "a_swanroam"
    after = deploy(**{file: SWANCTL / role / "extend-existing.conf"})
    assert sorted(after) == sorted(before)
    assert after["unrelated"].message == before["unrelated"].message
    assert_control_child(after[name], own, peer)
    children = after[name].message["children"]
    assert isinstance(children, dict)
    del children[DEFAULT_CHILD]
    assert dict(after[name].message) == dict(before[name].message)


def test_many_mobiles_share_all_but_their_identity_and_inner_address(deploy: Deploy) -> None:
    definitions = deploy(swanroam=SWANCTL / "correspondent" / "many-mobiles.conf")
    assert sorted(definitions) == ["laptop-1", "laptop-2"]
    for name, connection in definitions.items():
        peer = f"{name}.example.org"
        assert (connection.local_ids, connection.remote_ids) == ((GATEWAY,), (peer,))
        assert connection.remote_addrs == ("%any",)
        assert_data_child(connection)
        assert_control_child(connection, GATEWAY, peer)


def test_one_connection_for_many_mobiles_offers_the_whole_prefix(deploy: Deploy) -> None:
    definitions = deploy(swanroam=SWANCTL / "correspondent" / "many-mobiles-prefix.conf")
    connection = definitions["mobiles"]
    assert connection.accepts_identity("laptop-1.example.org")
    assert_data_child(connection)
    assert_control_child(connection, GATEWAY, None)


@pytest.mark.parametrize("file", sorted(STRONGSWAN.glob("*.conf")), ids=lambda path: path.name)
def test_strongswan_drop_in_has_no_syntax_error(file: Path) -> None:
    done = subprocess.run(
        ["swanctl", "--version"], env={**os.environ, "STRONGSWAN_CONF": str(file)}, capture_output=True, text=True
    )
    assert "error" not in done.stdout + done.stderr
    assert "invalid" not in done.stdout + done.stderr


def test_options_that_the_drop_in_names_exist() -> None:
    known = "".join(path.read_text() for path in OPTIONS.rglob("*.conf"))
    text = "".join(path.read_text() for path in STRONGSWAN.glob("*.conf"))
    named = set(re.findall(r"^ +(?:# +)?([a-z_]+) =", text, re.MULTILINE)) - {"mobike", "local_addrs"}
    assert len(named) > 8
    assert [name for name in sorted(named) if not re.search(rf"^ +(?:# )?{name} =", known, re.MULTILINE)] == []


def test_only_the_drop_ins_that_say_so_change_charon() -> None:
    active = {
        path.name: re.findall(r"^ *([a-z_]+ = .*)$", path.read_text(), re.MULTILINE)
        for path in STRONGSWAN.glob("*.conf")
    }
    assert active == {
        "swanroam.conf": [],
        "swanroam-mobile.conf": ["roam_events = no"],
        "swanroam-group.conf": ["group = swanroam"],
    }


@pytest.mark.parametrize(("role", "other"), [("mobile", CORRESPONDENT), ("correspondent", MOBILE)])
def test_example_configuration_fits_the_drop_ins(deploy: Deploy, role: str, other: str) -> None:
    config = load_config(EXAMPLES / f"{role}.yaml")
    (peer,) = config.peers
    assert peer.identity == other
    definitions = deploy(swanroam=SWANCTL / role / "psk.conf")
    connection = definitions[peer.connection]
    assert connection.local_ids == (config.identity,)
    control = connection.children[config.control.child]
    assert control.local_ts == (TrafficSelector.parse(f"{config.control.address}/128"),)
    assert control.remote_ts == (TrafficSelector.parse(f"{peer.control_address}/128"),)


def uncommented(text: str) -> str:
    """The example with every setting that it shows as a comment in force."""
    return re.sub(r"^( *)# ?( *(?:[a-z_]+:|- identity:))", r"\1\2", text, flags=re.MULTILINE)


def test_settings_shown_in_the_example_are_the_defaults(tmp_path: Path) -> None:
    text = (EXAMPLES / "mobile.yaml").read_text()
    (tmp_path / "all.yaml").write_text(uncommented(text))
    shown, plain = load_config(tmp_path / "all.yaml"), load_config(EXAMPLES / "mobile.yaml")
    (peer,) = shown.peers
    assert (peer.name, peer.moves.value, peer.filters, peer.grace, peer.children) == (
        "office",
        "us",
        FilterMethod.RENEGOTIATE,
        plain.peers[0].grace,
        ("data",),
    )
    fields = [name for name in Config.__dataclass_fields__ if name != "peers"]
    assert {name: getattr(shown, name) for name in fields} == {name: getattr(plain, name) for name in fields}

"""What swanctl would load, taken from the real swanctl, and the clones made of it. No charon runs here."""

import asyncio
import subprocess
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from swanroam.ike.associations import Mode
from swanroam.ike.definitions import ConnectionDefinition, DefinitionError, Definitions, read_definitions
from swanroam.ike.selectors import TrafficSelector

OLD, NEW, PEER = IPv4Address("10.1.1.2"), IPv4Address("10.2.2.2"), IPv4Address("10.3.3.2")

CONNECTIONS = """
connections {
    home : host-to-host {
        remote_addrs = 10.3.3.2, peer.example.org
        local {
            id = mobile@example.org
        }
        remote {
            id = peer@example.org
        }
        children {
            data {
                mode = transport
                start_action = trap
                dpd_action = restart
                close_action = start
                local_ts = dynamic[tcp]
                reqid = 17
            }
            swanroam : control {
            }
        }
    }
}
host-to-host {
    version = 2
    unique = replace
    local {
        auth = psk
    }
    remote {
        auth = psk
    }
}
control {
    mode = tunnel
    local_ts = fd53:7761:6e72::1/128
    remote_ts = fd53:7761:6e72::2/128
}
include more/*.conf
include absent/*.conf
secrets {
    ike-1 {
        secret = "not for load-conns"
    }
}
"""
WITH_CERTIFICATE = """
connections {
    cert {
        version = 2
        remote_addrs = 192.0.2.7
        local-1 {
            certs = host.pem
        }
        remote-1 {
            auth = pubkey
            id = "C=CH, O=swanroam, CN=*"
        }
        children {
            net {
                local_ts = 10.10.0.0/16, 10.20.0.1-10.20.0.9
            }
        }
    }
}
"""


def read(directory: Path, *, file: str | None = None, environment: Mapping[str, str] | None = None) -> Definitions:
    path = directory / file if file else None
    return asyncio.run(read_definitions(file=path, environment=environment or {"SWANCTL_DIR": str(directory)}))


@pytest.fixture
def swanctl_directory(tmp_path: Path) -> Path:
    (tmp_path / "swanctl.conf").write_text(CONNECTIONS)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "cert.conf").write_text(WITH_CERTIFICATE)
    (tmp_path / "x509").mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null"]
    output = ["-subj", "/C=CH/O=swanroam/CN=host", "-outform", "der", "-out", str(tmp_path / "x509" / "host.pem")]
    subprocess.run(["openssl", "req", "-x509", *key, *output], check=True, capture_output=True)
    return tmp_path


@pytest.fixture
def home(swanctl_directory: Path) -> ConnectionDefinition:
    return read(swanctl_directory)["home"]


def test_includes_references_and_lists_arrive_as_swanctl_resolves_them(swanctl_directory: Path) -> None:
    definitions = read(swanctl_directory)
    assert sorted(definitions) == ["cert", "home"]
    assert definitions.complaints == ()
    home = definitions["home"]
    assert home.local_ids == ("mobile@example.org",)
    assert home.remote_ids == ("peer@example.org",)
    assert home.remote_addrs == ("10.3.3.2", "peer.example.org")
    assert home.local_addrs == ()
    assert home.unique == "replace"
    assert list(home.children) == ["data", "swanroam"]
    data, control = home.children.values()
    assert data.mode is Mode.TRANSPORT
    assert data.local_ts == (TrafficSelector(None, None, protocol=6),)
    assert data.remote_ts == (TrafficSelector(None, None),)
    assert control.mode is Mode.TUNNEL
    assert control.local_ts == (TrafficSelector.parse("fd53:7761:6e72::1/128"),)


def test_certificates_are_kept_byte_for_byte_and_never_shown(swanctl_directory: Path) -> None:
    cert = read(swanctl_directory)["cert"]
    der = (swanctl_directory / "x509" / "host.pem").read_bytes()
    section = cert.message["local-1"]
    assert isinstance(section, dict)
    assert section["certs"] == [der]
    assert repr(cert) == "ConnectionDefinition(name='cert')"
    assert cert.remote_ids == ("C=CH, O=swanroam, CN=*",)
    assert cert.children["net"].mode is Mode.TUNNEL
    clone = cert.bound_to(name="c", local=NEW, remote=PEER, children=frozenset({"net"}))
    assert clone.message["local-1"] == section


def test_one_file_can_be_named(swanctl_directory: Path) -> None:
    (swanctl_directory / "other.conf").write_text("connections {\n other {\n version = 2\n }\n}\n")
    assert list(read(swanctl_directory, file="other.conf")) == ["other"]


def test_syntax_error_is_reported_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "swanctl.conf").write_text('connections {\n home {\n id = "unfinished\n')
    with pytest.raises(DefinitionError, match=r"swanctl\.conf:4: unterminated string.*by hand"):
        read(tmp_path)


def test_missing_configuration_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"failed to open config file .*swanctl\.conf"):
        read(tmp_path)
    (tmp_path / "swanctl.conf").write_text("connections {\n}\n")
    assert len(read(tmp_path)) == 0


def test_connection_that_swanctl_cannot_load_spares_the_others_and_is_explained_when_asked_for(tmp_path: Path) -> None:
    broken = "connections {\n broken {\n local {\n certs = absent.pem\n }\n }\n good {\n version = 2\n }\n}\n"
    (tmp_path / "swanctl.conf").write_text(broken)
    definitions = read(tmp_path)
    assert list(definitions) == ["good"]
    with pytest.raises(DefinitionError, match=r"no connection broken .*absent\.pem' failed: No such file"):
        definitions.connection("broken")


def test_unknown_connection_suggests_the_likely_one(swanctl_directory: Path) -> None:
    definitions = read(swanctl_directory)
    with pytest.raises(DefinitionError, match=r"no connection hone \(did you mean home\?\)"):
        definitions.connection("hone")
    with pytest.raises(DefinitionError, match=r"no connection office \(there is home, cert\)"):
        definitions.connection("office")


def test_missing_swanctl_tells_what_to_install() -> None:
    with pytest.raises(DefinitionError, match=r"cannot run /nonexistent/swanctl.*strongswan-swanctl"):
        asyncio.run(read_definitions(swanctl="/nonexistent/swanctl"))


def test_swanctl_that_hangs_is_ended(tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    with pytest.raises(DefinitionError, match="did not finish"):
        asyncio.run(read_definitions(swanctl=str(hanging), time_limit=0.1))


def test_clone_is_bound_to_its_addresses_and_starts_nothing_by_itself(home: ConnectionDefinition) -> None:
    clone = home.bound_to(name="home~b", local=NEW, remote=PEER, children=frozenset({"data"}))
    assert clone.name == "home~b"
    assert clone.local_addrs == ("10.2.2.2",)
    assert clone.remote_addrs == ("10.3.3.2",)
    assert clone.unique == "never"
    assert not clone.mobike
    assert clone.message["children"] == {
        "data": {
            "mode": b"transport",
            "start_action": b"none",
            "dpd_action": b"clear",
            "close_action": b"none",
            "local_ts": [b"dynamic[tcp]"],
            "reqid": b"17",
        }
    }
    assert clone.message["local"] == {"auth": b"psk", "id": b"mobile@example.org"}
    assert home.unique == "replace"
    assert sorted(home.children) == ["data", "swanroam"]


def test_clone_can_be_on_ipv6(home: ConnectionDefinition) -> None:
    clone = home.bound_to(
        name="home~6",
        local=IPv6Address("2001:db8:b::2"),
        remote=IPv6Address("2001:db8:d::2"),
        children=frozenset({"swanroam"}),
    )
    assert (clone.local_addrs, clone.remote_addrs) == (("2001:db8:b::2",), ("2001:db8:d::2",))


def test_open_identities_are_pinned_and_said_ones_are_kept(swanctl_directory: Path, home: ConnectionDefinition) -> None:
    pinned = {"local_id": "C=CH, O=swanroam, CN=host", "remote_id": "C=CH, O=swanroam, CN=peer"}
    arguments = {"name": "x", "local": NEW, "remote": PEER}
    cert = read(swanctl_directory)["cert"].bound_to(**arguments, children=frozenset({"net"}), **pinned)  # type: ignore[arg-type]
    assert cert.local_ids == (pinned["local_id"],)
    assert cert.remote_ids == (pinned["remote_id"],)
    kept = home.bound_to(**arguments, children=frozenset({"data"}), **pinned)  # type: ignore[arg-type]
    assert kept.local_ids == ("mobile@example.org",)
    assert kept.remote_ids == ("peer@example.org",)


def test_accepted_identities(swanctl_directory: Path) -> None:
    definitions = read(swanctl_directory)
    assert definitions["home"].accepts_identity("peer@example.org")
    assert not definitions["home"].accepts_identity("other@example.org")
    assert definitions["cert"].accepts_identity("C=CH, O=swanroam, CN=peer")


def definition(**message: object) -> ConnectionDefinition:
    return ConnectionDefinition("c", message)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("original", "child", "said"),
    [
        (definition(version=b"1"), "data", "IKEv1, which cannot roam: set version = 2"),
        (definition(children={"data": {}}), "date", r"no child date \(did you mean data\?\)"),
        (
            definition(children={"data": {"mode": b"transport", "local_ts": [b"10.1.1.2/32[tcp]"]}}),
            "data",
            r"local_ts = 10.1.1.2/32\[6\], which does not follow",
        ),
        (
            definition(children={"data": {"local_ts": [b"10.1.1.2/33"]}}),
            "data",
            "child data of connection c: '10.1.1.2/33'",
        ),
    ],
    ids=["ikev1", "unknown child", "literal address in transport mode", "unreadable selector"],
)
def test_connection_that_cannot_move_says_what_to_change(original: ConnectionDefinition, child: str, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        original.bound_to(name="x", local=NEW, remote=PEER, children=frozenset({child}))

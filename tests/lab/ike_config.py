"""The hosts' swanctl directories: connections between them, and pre-shared keys or certificates."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.addressing import IPAddress, inner_address
from lab.namespace import command

Authentication = Literal["psk", "certificate"]
DATA = "data"
CONTROL = "swanroam"
SECRETS = "secrets.conf"
KEPT_UP = ("start_action = start", "dpd_action = restart")
"""Of children that charon brings up when it has loaded them, and again when the peer is gone."""

_CONNECTION = """
    peer-{peer} {{
        version = 2
        mobike = {mobike}
        {remote_addrs}
        proposals = aes128-sha256-ecp256
        {options}
        local {{
            auth = {auth}
            id = {own_identity}
            {certificate}
        }}
        remote {{
            auth = {auth}
            id = {peer_identity}
        }}
        children {{
            {data} {{
                mode = transport
                local_ts = dynamic
                remote_ts = dynamic
                esp_proposals = aes128gcm16
                {child_options}
            }}
            {control} {{
                mode = tunnel
                local_ts = {own_inner}/128
                remote_ts = {peer_inner}/128
                set_mark_out = 0x5353
                esp_proposals = aes128gcm16
                {child_options}
            }}
        }}
    }}
"""
_SECRET = """
    ike-{peer} {{
        id-1 = {own_identity}
        id-2 = {peer_identity}
        secret = 0x{secret}
    }}
"""


@dataclass(frozen=True, slots=True)
class Party:
    """One host as IKE sees it."""

    name: str
    identity: str
    directory: Path
    """Its swanctl directory."""
    reach: IPAddress | str | None
    """The address or name that others connect to; None for a host that only connects itself."""


class Credentials:
    """Pre-shared keys made on demand, and a certification authority when one is asked for."""

    def __init__(self, directory: Path, authentication: Authentication) -> None:
        self.authentication = authentication
        self._directory = directory
        self._secrets: dict[frozenset[str], str] = {}
        if authentication == "certificate":
            directory.mkdir()
            self._key("ca")
            subject = ["--dn", "CN=swanroam lab", "--ca", "--lifetime", "30", "--outform", "pem"]
            self._certificate("ca", ["pki", "--self", "--in", self._path("ca.key"), *subject])

    def _path(self, name: str) -> str:
        return str(self._directory / name)

    def _key(self, name: str) -> None:
        made = command(["pki", "--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem"])
        (self._directory / f"{name}.key").write_text(made.stdout, encoding="ascii")

    def _certificate(self, name: str, argv: list[str]) -> None:
        (self._directory / f"{name}.pem").write_text(command(argv).stdout, encoding="ascii")

    def secret(self, one: str, other: str) -> str:
        """The pre-shared key of two identities, in hexadecimal."""
        return self._secrets.setdefault(frozenset((one, other)), secrets.token_hex(32))

    def install(self, party: Party) -> None:
        """Give a host its key, its certificate and the authority's."""
        name = party.name
        self._key(name)
        issue = ["pki", "--issue", "--cacert", self._path("ca.pem"), "--cakey", self._path("ca.key")]
        source = ["--type", "priv", "--in", self._path(f"{name}.key"), "--lifetime", "30"]
        subject = ["--dn", f"CN={party.identity}", "--san", party.identity, "--outform", "pem"]
        self._certificate(name, [*issue, *source, *subject])
        for folder, source_name, target in (
            ("x509ca", "ca.pem", "ca.pem"),
            ("x509", f"{name}.pem", f"{name}.pem"),
            ("private", f"{name}.key", f"{name}.key"),
        ):
            (party.directory / folder).mkdir(parents=True, exist_ok=True)
            content = (self._directory / source_name).read_text(encoding="ascii")
            (party.directory / folder / target).write_text(content, encoding="ascii")


def write_swanctl(
    own: Party,
    peers: Iterable[Party],
    credentials: Credentials,
    *,
    mobike: bool = True,
    options: Iterable[str] = (),
    child_options: Iterable[str] = (),
) -> None:
    """Write a host's swanctl.conf: a connection `peer-<name>` and, with pre-shared keys, a secret for each peer, in a
    file of its own that root alone can read.

    `options` are further lines of every connection, e.g. `unique = never`, `child_options` of every child.
    """
    certificates = credentials.authentication == "certificate"
    own.directory.mkdir(parents=True, exist_ok=True)
    if certificates:
        credentials.install(own)
    connections, secret_sections = [], []
    for peer in peers:
        connections.append(
            _CONNECTION.format(
                peer=peer.name,
                mobike="yes" if mobike else "no",
                remote_addrs=f"remote_addrs = {peer.reach}" if peer.reach else "remote_addrs = %any",
                options="\n        ".join(options),
                child_options="\n                ".join(child_options),
                auth="pubkey" if certificates else "psk",
                own_identity=own.identity,
                peer_identity=peer.identity,
                certificate=f"certs = {own.name}.pem" if certificates else "",
                data=DATA,
                control=CONTROL,
                own_inner=inner_address(own.identity),
                peer_inner=inner_address(peer.identity),
            )
        )
        if not certificates:
            secret_sections.append(
                _SECRET.format(
                    peer=peer.name,
                    own_identity=own.identity,
                    peer_identity=peer.identity,
                    secret=credentials.secret(own.identity, peer.identity),
                )
            )
    text = f"connections {{{''.join(connections)}}}\ninclude secrets.conf\n"
    (own.directory / "swanctl.conf").write_text(text, encoding="utf-8")
    private = own.directory / SECRETS
    private.touch(mode=0o600)
    private.write_text(f"secrets {{{''.join(secret_sections)}}}\n", encoding="utf-8")

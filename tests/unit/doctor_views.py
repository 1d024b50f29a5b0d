"""Views of a host on which nothing is wrong, for the tests of `swanroam doctor` to change one thing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from swanroam import __version__
from swanroam.config import Config, parse_config
from swanroam.doctor.view import Api, CharonAnswer, View, Way
from swanroam.ike.definitions import Definitions, read_definitions
from swanroam.kernel.findings import Finding, Severity
from swanroam.kernel.rtnetlink import WayOut
from swanroam.protocol.host_state import Pair
from unit.child_sas import CONTROL, DATA, IKE, selectors

OURS, ITS = "mobile.example.org", "peer.example.org"
LOCAL, REMOTE = ip_address("10.1.1.2"), ip_address("10.3.3.2")
CONNECTIONS = """
connections {
    server {
        remote_addrs = 10.3.3.2
        local {
            id = mobile.example.org
        }
        remote {
            id = peer.example.org
        }
        # OPTIONS
        children {
            data {
                mode = transport
                # DATA OPTIONS
            }
            # CONTROL CHILD
            swanroam {
                mode = tunnel
                local_ts = {ours}/128
                remote_ts = {its}/128
                set_mark_out = 0x5353
            }
            # END
        }
    }
}
"""
CHARON = CharonAnswer(
    pid=1000,
    version="5.9.8",
    plugins=frozenset({"vici", "kernel-netlink", "socket-default", "openssl"}),
    loaded=frozenset({"server"}),
)


def config(peer: str = "", more: str = "", directory: Path = Path("/nowhere")) -> Config:
    return parse_config(
        f"""\
identity: {OURS}
state_directory: {directory}/state
runtime_directory: {directory}/run
{more}
peers:
  - identity: {ITS}
    connection: server
    {peer}
"""
    )


def definitions(settings: Config, directory: Path, *changes: tuple[str, str]) -> Definitions:
    """The connection that fits, with texts replaced, as swanctl reads it."""
    (peer,) = settings.peers
    text = CONNECTIONS.replace("{ours}", str(settings.control.address)).replace("{its}", str(peer.control_address))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = directory / "swanctl.conf"
    file.write_text(text)
    return asyncio.run(read_definitions(file=file))


def healthy(directory: Path, settings: Config | None = None, **changes: Any) -> View:
    """Everything stands, and the daemon runs. `changes`: fields of the view."""
    settings = settings or config(directory=directory)
    (peer,) = settings.peers
    control = replace(
        CONTROL,
        local_ts=selectors(f"{settings.control.address}/128"),
        remote_ts=selectors(f"{peer.control_address}/128"),
    )
    ike_sa = replace(IKE, children=(DATA, control))
    given: dict[str, Any] = {
        "config": settings,
        "config_file": Path("/etc/swanroam/swanroam.yaml"),
        "privileged": True,
        "api": Api(status()),
        "daemon_pid": 812,
        "charon": CHARON,
        "ike_sas": (ike_sa,),
        "ways": (Way(peer, Pair(LOCAL, REMOTE), WayOut("eth0", 1500, 1500)),),
    } | changes
    if "definitions" not in given:
        given["definitions"] = definitions(settings, directory)
    return View(**given)


def status(**peer: Any) -> dict[str, Any]:
    """The daemon's document, as far as it is looked at. `peer`: what is different for the peer."""
    known = {"name": ITS, "identity": ITS, "state": "protected and ready to move", "problem": "", "managed": True}
    known |= {"swanroam": __version__}
    return {
        "swanroam": __version__,
        "configuration": {"file": "/etc/swanroam/swanroam.yaml", "current": True, "wrong": [], "refused": []},
        "problems": [f"{ITS}: {peer['problem']}"] if peer.get("problem") else [],
        "control_channel": {"dropped": {}},
        "peers": [known | peer],
    }


def bad(findings: list[Finding]) -> list[Finding]:
    """What is not as it should be."""
    return [finding for finding in findings if finding.severity is not Severity.OK]


def only(findings: list[Finding]) -> Finding:
    """The one thing that is not as it should be."""
    (finding,) = bad(findings)
    assert finding.mend or finding.severity in (Severity.UNSEEN, Severity.NOTE), finding
    return finding

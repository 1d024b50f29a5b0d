"""An IKE_SA with the two CHILD_SAs that a managed peer has, as charon lists it."""

from __future__ import annotations

from ipaddress import ip_address

from swanroam.ike.associations import ChildSa, ChildState, Endpoint, IkeSa, IkeState, Mode
from swanroam.ike.selectors import TrafficSelector

A, P = map(ip_address, ("10.1.1.2", "10.3.3.2"))
PEER = "peer.example.org"


def selectors(*texts: str) -> tuple[TrafficSelector, ...]:
    return tuple(map(TrafficSelector.parse, texts))


DATA = ChildSa(
    name="data",
    unique_id=3,
    reqid=1,
    state=ChildState.INSTALLED,
    mode=Mode.TRANSPORT,
    protocol="ESP",
    spi_in=0xC1,
    spi_out=0xC2,
    local_ts=selectors("10.1.1.2/32"),
    remote_ts=selectors("10.3.3.2/32"),
)
CONTROL = ChildSa(
    name="swanroam",
    unique_id=4,
    reqid=2,
    state=ChildState.INSTALLED,
    mode=Mode.TUNNEL,
    protocol="ESP",
    spi_in=0xC3,
    spi_out=0xC4,
    local_ts=selectors("fd53::1/128"),
    remote_ts=selectors("fd53::2/128"),
)
IKE = IkeSa(
    name="server",
    unique_id=7,
    state=IkeState.ESTABLISHED,
    version=2,
    local=Endpoint(A, 500, "mobile.example.org"),
    remote=Endpoint(P, 500, PEER),
    initiator=True,
    children=(DATA, CONTROL),
)

"""What is never migrated, because its packets would be clear inside a carrier that nothing protects, or be lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from unittest import mock

import pytest

from swanroam.ike import migrate as migrate_module
from swanroam.ike.associations import ChildSa, ChildState, Endpoint, IkeSa, IkeState, Mode
from swanroam.ike.migrate import AddressPair, Migrate, MigrateError
from swanroam.ike.selectors import TrafficSelector

OLD, NEW, PEER = (ip_address(text) for text in ("10.1.1.2", "10.2.2.2", "10.3.3.2"))
EVERYTHING = ChildSa(
    name="data",
    unique_id=1,
    reqid=1,
    state=ChildState.INSTALLED,
    mode=Mode.TRANSPORT,
    protocol="ESP",
    spi_in=1,
    spi_out=2,
    local_ts=(TrafficSelector.parse("10.1.1.2/32"),),
    remote_ts=(TrafficSelector.parse("10.3.3.2/32"),),
)
IKE_SA = IkeSa(
    name="server",
    unique_id=1,
    state=IkeState.ESTABLISHED,
    version=2,
    local=Endpoint(OLD, 4500, "mobile"),
    remote=Endpoint(PEER, 4500, "peer"),
    initiator=True,
    children=(EVERYTHING,),
)


def refused(ike_sa: IkeSa) -> str:
    """Why the data child is not moved. The kernel is not asked: there is none."""

    async def move() -> None:
        migrate = Migrate(mock.sentinel.client, mock.sentinel.xfrm)
        pair = AddressPair(NEW, PEER)
        await migrate.move("server", "peer", pair, data=["data"], control=[], wanted=lambda: True)

    with (
        mock.patch.object(migrate_module, "list_ike_sas", mock.AsyncMock(return_value=[ike_sa])),
        mock.patch.object(Migrate, "_stands", mock.AsyncMock(return_value=True)),
    ):
        try:
            asyncio.run(move())
        except MigrateError as error:
            return str(error)
    return ""


def test_what_can_be_migrated_is_not_refused() -> None:
    assert refused(IKE_SA) == ""


@pytest.mark.parametrize(
    "child",
    [
        replace(EVERYTHING, local_ts=(TrafficSelector.parse("10.1.1.2/32[tcp]"),)),
        replace(EVERYTHING, remote_ts=(TrafficSelector.parse("10.3.3.2/32[tcp/5432]"),)),
        replace(EVERYTHING, mode=Mode.TUNNEL),
    ],
    ids=["a protocol", "a port", "tunnel mode"],
)
def test_without_a_child_that_protects_the_carrier_nothing_is_migrated(child: ChildSa) -> None:
    assert "none would protect the carrier" in refused(replace(IKE_SA, children=(child,)))


@pytest.mark.parametrize("side", ["nat_local", "nat_remote"])
def test_behind_nat_nothing_is_migrated(side: str) -> None:
    assert "is behind NAT" in refused(replace(IKE_SA, **{side: True}))  # type: ignore[arg-type]

"""What is never migrated, because its packets would be clear inside a carrier that nothing protects, or be lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from unittest import mock

import pytest

from swanroam.ike import migrate as migrate_module
from swanroam.ike.associations import ChildSa, IkeSa, Mode
from swanroam.ike.migrate import AddressPair, Migrate, MigrateError
from unit.child_sas import DATA, IKE, PEER, P, selectors

NEW = ip_address("10.2.2.2")
IKE_SA = replace(IKE, children=(DATA,))


def refused(ike_sa: IkeSa) -> str:
    """Why the data child is not moved. The kernel is not asked: there is none."""

    async def move() -> None:
        migrate = Migrate(mock.sentinel.client, mock.sentinel.xfrm)
        pair = AddressPair(NEW, P)
        await migrate.move("server", PEER, pair, data=["data"], control=[], wanted=lambda: True)

    with (
        mock.patch.object(migrate_module, "list_ike_sas", mock.AsyncMock(return_value=[ike_sa])),
        mock.patch.object(Migrate, "_stands", mock.AsyncMock(return_value=True)),
        mock.patch.object(Migrate, "_drop_clones", mock.AsyncMock()),
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
        replace(DATA, local_ts=selectors("10.1.1.2/32[tcp]")),
        replace(DATA, remote_ts=selectors("10.3.3.2/32[tcp/5432]")),
        replace(DATA, mode=Mode.TUNNEL),
    ],
    ids=["a protocol", "a port", "tunnel mode"],
)
def test_without_a_child_that_protects_the_carrier_nothing_is_migrated(child: ChildSa) -> None:
    assert "none would protect the carrier" in refused(replace(IKE_SA, children=(child,)))


@pytest.mark.parametrize("side", ["nat_local", "nat_remote"])
def test_behind_nat_nothing_is_migrated(side: str) -> None:
    assert "is behind NAT" in refused(replace(IKE_SA, **{side: True}))  # type: ignore[arg-type]

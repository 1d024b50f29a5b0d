"""A peer's `unique` setting against make before break. It counts only between IKE_SAs of one configuration, so it is
there from the beginning of each story."""

from collections.abc import Callable

import pytest

from lab.topology import Lab
from scenarios.ike_parties import Parties, assert_attempt_fails_without_a_trace, enter_second_network, scenario
from swanroam.ike.renegotiate import PeerReplacedError

pytestmark = pytest.mark.lab


def test_peer_that_keeps_the_first_is_reported(make_lab: Callable[..., Lab]) -> None:
    lab = enter_second_network(make_lab(connection_options=["unique = keep"]))
    assert_attempt_fails_without_a_trace(lab, "unique = keep")


def test_peer_that_replaces_is_reported_with_the_new_association(make_lab: Callable[..., Lab]) -> None:
    async def story(parties: Parties) -> None:
        said = r"ended the IKE_SA 10\.1\.1\.2 === 10\.3\.3\.2 .*unique = no"
        with pytest.raises(PeerReplacedError, match=said) as error:
            await parties.establish()
        assert [ike_sa.unique_id for ike_sa in await parties.find()] == [error.value.established.unique_id]
        assert parties.all_ping(parties.new)

    scenario(Parties(enter_second_network(make_lab(connection_options=["unique = replace"]))), story)


def test_own_setting_does_not_end_the_old_association(make_lab: Callable[..., Lab]) -> None:
    async def story(parties: Parties) -> None:
        await parties.establish()
        assert len(await parties.find()) == 2
        assert parties.all_ping(parties.old, parties.new)

    lab = make_lab(connection_options=["unique = replace"])
    path = lab.correspondent.charon.swanctl_directory / "swanctl.conf"
    path.write_text(path.read_text(encoding="utf-8").replace("unique = replace", "unique = no"), encoding="utf-8")
    scenario(Parties(enter_second_network(lab)), story)

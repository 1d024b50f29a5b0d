"""Make before break on two real charons: a second IKE_SA for a new address pair beside the old one.

The mobile host is in two networks at once here, so both paths work and only IKE is looked at:

    mobile                                            correspondent
      net-a  ══ IKE_SA peer-correspondent ════════════  net-d
      net-b  ══ IKE_SA peer-correspondent~b~d ════════  net-d
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from ipaddress import ip_address

import pytest

from lab.addressing import Family
from lab.ike_config import SECRETS
from lab.topology import Lab
from lab.zygote import Zygote
from scenarios.ike_parties import (
    BOTH,
    CONNECTION,
    Parties,
    assert_attempt_fails_without_a_trace,
    children,
    enter_second_network,
    scenario,
    until,
)
from swanroam.ike.associations import ChildState, IkeSa, Mode, list_ike_sas
from swanroam.ike.clones import clone_name
from swanroam.ike.definitions import ConnectionDefinition, read_definitions
from swanroam.ike.expectations import Direction, expected_states
from swanroam.ike.messages import IkeError
from swanroam.ike.renegotiate import FilterError, Renegotiate
from swanroam.ike.vici import ViciClient

pytestmark = pytest.mark.lab


@pytest.fixture
def in_both(make_lab: Callable[..., Lab], family: Family) -> Lab:
    """The lab with the mobile host in both networks."""
    return enter_second_network(make_lab(family=family))


def test_new_associations_live_beside_the_old_ones_and_outlive_them(in_both: Lab) -> None:
    async def story(parties: Parties) -> None:
        (old,) = await parties.find()
        new = await parties.establish()
        assert new.connects(parties.new, parties.peer)
        assert new.name == clone_name(CONNECTION, parties.new, parties.peer)
        assert children(new) == {("data", Mode.TRANSPORT), ("swanroam", Mode.TUNNEL)}
        assert [ike_sa.unique_id for ike_sa in await parties.find()] == [old.unique_id, new.unique_id]
        assert parties.all_ping(parties.old, parties.new)
        assert (await parties.establish()).unique_id == new.unique_id

        assert await parties.method.supersede(new, lambda: False) == ()
        ended = await parties.method.supersede(new)
        assert [(child.name, child.unique_id) for child in ended] == [("swanroam", old.children[-1].unique_id)]
        assert await parties.method.supersede(new) == ()
        for client in (parties.mobile, parties.correspondent):
            ike_sas = {sa.local.host: sa for sa in await list_ike_sas(client)} | {
                sa.remote.host: sa for sa in await list_ike_sas(client)
            }
            assert children(ike_sas[parties.old]) == {("data", Mode.TRANSPORT)}
            assert children(ike_sas[parties.new]) == {("data", Mode.TRANSPORT), ("swanroam", Mode.TUNNEL)}

        await rekey_everything(parties)
        assert parties.all_ping(parties.old, parties.new)

        # Rekeyed, they have other identifiers, and in any order.
        old, new = sorted(await parties.find(), key=lambda ike_sa: not ike_sa.connects(parties.old, parties.peer))
        await parties.method.release(old.unique_id)
        await parties.method.release(old.unique_id)
        assert [ike_sa.unique_id for ike_sa in await parties.find()] == [new.unique_id]
        assert parties.all_ping(parties.new)
        assert not await parties.method.unload(CONNECTION, parties.new, parties.peer)
        await rekey_everything(parties)
        assert parties.all_ping(parties.new)

    scenario(Parties(in_both), story)


def test_of_two_that_both_hosts_have_made_at_once_both_keep_the_same(in_both: Lab) -> None:
    async def story(parties: Parties) -> None:
        (old,) = await parties.find()
        await parties.establish()
        definitions = partial(read_definitions, environment=in_both.correspondent.charon.environment)
        theirs = Renegotiate(parties.correspondent, definitions)
        await make_second(parties, (await definitions()).connection("peer-mobile"))

        def ends(ike_sas: Iterable[IkeSa]) -> list[IkeSa]:
            return [ike_sa for ike_sa in ike_sas if parties.new in (ike_sa.local.host, ike_sa.remote.host)]

        doubles = ends(await parties.find())
        assert len({double.initiator_spi for double in doubles}) == 2
        assert all(children(double) == {("data", Mode.TRANSPORT), ("swanroam", Mode.TUNNEL)} for double in doubles)
        seen_there = ends(await list_ike_sas(parties.correspondent, noblock=False))

        await parties.method.end_doubles(doubles[0], lambda: False)
        assert len(ends(await parties.find())) == 2
        await asyncio.gather(parties.method.end_doubles(doubles[0]), theirs.end_doubles(seen_there[0]))
        left = min(double.initiator_spi for double in doubles)
        for client in (parties.mobile, parties.correspondent):
            found = await list_ike_sas(client, noblock=False)
            assert [ike_sa.initiator_spi for ike_sa in ends(found)] == [left]
            assert len(found) == 2, "the old one is none of them"
        await parties.method.end_doubles(old)
        assert len(await parties.find()) == 2
        assert parties.all_ping(parties.old, parties.new)

    scenario(Parties(in_both), story)


async def make_second(parties: Parties, definition: ConnectionDefinition) -> None:
    """The correspondent host makes an IKE_SA for the pair as well, as if it had begun before the first one stood."""
    clone = definition.bound_to(
        name=clone_name(definition.name, parties.peer, parties.new),
        local=parties.peer,
        remote=parties.new,
        children=BOTH,
    )
    await parties.correspondent.request("load-conn", {clone.name: clone.message})
    for child in sorted(BOTH):
        await parties.correspondent.request("initiate", {"ike": clone.name, "child": child, "timeout": "10000"})


async def rekey_everything(parties: Parties) -> None:
    """Rekey all CHILD_SAs, then all IKE_SAs, and wait for both hosts to have only new ones in use."""

    async def usable(client: ViciClient) -> tuple[set[str], set[int]]:
        ike_sas = [ike_sa for ike_sa in await list_ike_sas(client, noblock=False) if ike_sa.is_usable]
        spis = {child.spi_in for ike_sa in ike_sas for child in ike_sa.children if child.state is ChildState.INSTALLED}
        return {ike_sa.initiator_spi for ike_sa in ike_sas}, {spi for spi in spis if spi is not None}

    before = [await usable(client) for client in (parties.mobile, parties.correspondent)]
    ike_sas = await parties.find()
    for ike_sa in ike_sas:
        for child in ike_sa.children:
            if child.is_usable:
                await parties.mobile.request("rekey", {"child-id": str(child.unique_id)})

    async def children_are_new() -> bool:
        now = [await usable(client) for client in (parties.mobile, parties.correspondent)]
        return all(not (new & old) and len(new) == len(old) for (_, new), (_, old) in zip(now, before, strict=True))

    await until("all CHILD_SAs are rekeyed", children_are_new)
    for ike_sa in ike_sas:
        await parties.mobile.request("rekey", {"ike-id": str(ike_sa.unique_id)})

    async def ike_sas_are_new() -> bool:
        now = [await usable(client) for client in (parties.mobile, parties.correspondent)]
        return all(not (new & old) and len(new) == len(old) for (new, _), (old, _) in zip(now, before, strict=True))

    await until("all IKE_SAs are rekeyed", ike_sas_are_new)


def test_kernel_holds_what_is_expected_of_new_associations(in_both: Lab) -> None:
    async def story(parties: Parties) -> None:
        new = await parties.establish()
        states = in_both.mobile.run(["ip", "xfrm", "state", "list"]).stdout
        expected = expected_states(new)
        assert {(state.child, state.direction) for state in expected} == {
            (child, direction) for child in BOTH for direction in Direction
        }
        for state in expected:
            head = f"src {state.source} dst {state.destination}\n\tproto esp spi {state.spi:#010x} reqid {state.reqid} "
            assert f"{head}mode {state.mode.value.lower()}\n" in states

    scenario(Parties(in_both), story)


def test_return_to_the_first_address_completes_it_again(in_both: Lab) -> None:
    async def story(parties: Parties) -> None:
        (first,) = await parties.find()
        await parties.method.supersede(await parties.establish())
        back = await parties.establish(parties.old)
        assert back.unique_id == first.unique_id
        await parties.method.supersede(back)
        await rekey_everything(parties)
        for ike_sa in await parties.find():
            if ike_sa.name != back.name:
                await parties.method.release(ike_sa.unique_id)
        (left,) = await parties.find()
        assert children(left) == {("data", Mode.TRANSPORT), ("swanroam", Mode.TUNNEL)}
        assert parties.all_ping(parties.old)
        assert await parties.method.unload_unused(CONNECTION) == ((parties.new, parties.peer),)
        assert await parties.connections() == [CONNECTION]

    scenario(Parties(in_both), story)


def test_interrupted_attempt_is_taken_up_by_the_next_one(in_both: Lab) -> None:
    async def story(parties: Parties) -> None:
        (old,) = await parties.find()
        name = clone_name(CONNECTION, parties.new, parties.peer)

        async def is_connecting() -> bool:
            return any(ike_sa.name == name for ike_sa in await list_ike_sas(parties.mobile))

        with in_both.router.blocked("net-b"):
            attempt = asyncio.create_task(parties.establish())
            await until("the attempt has begun", is_connecting)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
        restarted = Parties(in_both)
        async with restarted.mobile:
            new = await restarted.establish()
        assert [ike_sa.unique_id for ike_sa in await parties.find()] == [old.unique_id, new.unique_id]
        assert parties.all_ping(parties.old, parties.new)
        # The administrator reloads: the clone's configuration goes, its associations stay.
        await asyncio.to_thread(in_both.mobile.charon.load)
        assert await parties.connections() == [CONNECTION]
        assert (await parties.establish()).unique_id == new.unique_id

    scenario(Parties(in_both), story)


def test_certificates_of_the_connection_serve_the_new_associations(make_lab: Callable[..., Lab]) -> None:
    async def story(parties: Parties) -> None:
        new = await parties.establish()
        assert new.remote.identity == parties.identity
        assert parties.all_ping(parties.old, parties.new)

    scenario(Parties(enter_second_network(make_lab(authentication="certificate"))), story)


def test_failure_to_complete_leaves_an_association_in_use_alone(in_both: Lab) -> None:
    async def story(parties: Parties) -> None:
        first = await parties.establish()
        await parties.method.supersede(await parties.establish(parties.old))
        path = in_both.correspondent.charon.swanctl_directory / "swanctl.conf"
        path.write_text(path.read_text(encoding="utf-8").replace("remote_ts = fd53", "remote_ts = fd54"), "utf-8")
        await asyncio.to_thread(in_both.correspondent.charon.load)
        for child in [
            child for ike_sa in await parties.find() for child in ike_sa.children if child.name == "swanroam"
        ]:
            await parties.mobile.request("terminate", {"child-id": str(child.unique_id)})
        with pytest.raises(FilterError, match="TS_UNACCEPTABLE"):
            await parties.establish()
        left = [ike_sa for ike_sa in await parties.find() if ike_sa.unique_id == first.unique_id]
        assert [children(ike_sa) for ike_sa in left] == [{("data", Mode.TRANSPORT)}]

    scenario(Parties(in_both), story)


@pytest.fixture(scope="module")
def shared_lab(zygote: Zygote) -> Iterator[Lab]:
    """For attempts that fail: each must leave everything as it was."""
    with Lab(zygote=zygote) as lab:
        yield enter_second_network(lab)


@pytest.fixture
def changed_peer(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The correspondent's configuration with one text in a file replaced by another (the parameter)."""
    name, old, new = request.param
    charon = shared_lab.correspondent.charon
    path = charon.swanctl_directory / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    charon.load()
    yield shared_lab
    path.write_text(text, encoding="utf-8")
    charon.load()


@pytest.mark.parametrize("changed_peer", [(SECRETS, "secret = 0x", "secret = 0xff")], indirect=True)
def test_wrong_secret_is_reported(changed_peer: Lab) -> None:
    assert_attempt_fails_without_a_trace(changed_peer, "received AUTHENTICATION_FAILED.*credentials")


@pytest.mark.parametrize("changed_peer", [("swanctl.conf", "mode = transport", "mode = tunnel")], indirect=True)
def test_silent_fallback_to_tunnel_mode_is_noticed(changed_peer: Lab) -> None:
    assert_attempt_fails_without_a_trace(
        changed_peer, "data came up in TUNNEL mode instead of TRANSPORT: set mode = transport for it on the peer"
    )


@pytest.mark.parametrize("changed_peer", [("swanctl.conf", "remote_ts = fd53", "remote_ts = fd54")], indirect=True)
def test_control_child_that_the_peer_has_not_is_reported(changed_peer: Lab) -> None:
    assert_attempt_fails_without_a_trace(changed_peer, "CHILD_SA swanroam .*TS_UNACCEPTABLE.*control child")


def test_unknown_connection_and_child_are_reported_before_anything_is_sent(shared_lab: Lab) -> None:
    async def story(parties: Parties) -> None:
        pair = parties.new, parties.peer
        with pytest.raises(IkeError, match=r"no connection peer-correspondend \(did you mean peer-correspondent\?\)"):
            await parties.method.establish("peer-correspondend", parties.identity, *pair, BOTH)
        with pytest.raises(IkeError, match=r"has no child dato \(did you mean data\?\)"):
            await parties.method.establish(CONNECTION, parties.identity, *pair, {"dato", "swanroam"})
        with pytest.raises(IkeError, match=r"is for correspondent\.example\.org, not for other"):
            await parties.method.establish(CONNECTION, "other", *pair, BOTH)
        assert await parties.connections() == [CONNECTION]

    scenario(Parties(shared_lab), story)


def test_silent_peer_costs_no_more_than_the_time_limit(shared_lab: Lab) -> None:
    said = r"nothing came from 10\.3\.3\.2: check"
    assert_attempt_fails_without_a_trace(shared_lab, said, time_limit=1.5, during=shared_lab.router.blocked("net-b"))


def test_address_that_is_not_there_is_reported(shared_lab: Lab) -> None:
    async def story(parties: Parties) -> None:
        absent = ip_address("10.4.4.2")
        with pytest.raises(FilterError, match=r"check that 10\.4\.4\.2 is on an interface"):
            await parties.establish(absent)
        assert len(await list_ike_sas(parties.mobile, noblock=False)) == 1

    scenario(Parties(shared_lab, time_limit=1.5), story)


def test_association_on_a_dead_path_is_released_all_the_same(shared_lab: Lab) -> None:
    async def story(parties: Parties) -> None:
        new = await parties.establish()
        with shared_lab.router.blocked("net-d"):
            with pytest.raises(FilterError, match="that path is dead, release it"):
                await parties.method.supersede(new)
            await parties.method.release(new.unique_id)
        assert len(await parties.find()) == 1
        assert await parties.method.unload_unused(CONNECTION) == ((parties.new, parties.peer),)

    scenario(Parties(shared_lab, time_limit=1.5), story)

"""What new associations are compared with before anything relies on them."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from swanroam.ike.associations import ChildSa, ChildState, Endpoint, IkeSa, Mark, Mode
from swanroam.ike.definitions import ChildDefinition
from swanroam.ike.expectations import Direction, ExpectedState, expected_states, shortcomings
from swanroam.ike.selectors import TrafficSelector
from unit import child_sas
from unit.child_sas import A as OLD
from unit.child_sas import P as PEER
from unit.child_sas import selectors

NEW = ip_address("10.2.2.2")
DYNAMIC = (TrafficSelector(None, None),)
DATA = replace(child_sas.DATA, local_ts=selectors("10.2.2.2/32[tcp]"))
CONTROL = replace(child_sas.CONTROL, mark_out=Mark(0x10))
DEFINITIONS = {
    "data": ChildDefinition("data", Mode.TRANSPORT, DYNAMIC, DYNAMIC),
    "swanroam": ChildDefinition("swanroam", Mode.TUNNEL, selectors("fd53::1/128"), selectors("fd53::2/128")),
}
NEW_SA = replace(
    child_sas.IKE,
    name="home~10.2.2.2~10.3.3.2",
    unique_id=2,
    local=Endpoint(NEW, 4500, "mobile"),
    children=(DATA, CONTROL),
)
OLD_SA = replace(
    NEW_SA,
    name="home",
    unique_id=1,
    local=Endpoint(OLD, 4500, "mobile"),
    children=(replace(DATA, unique_id=1, local_ts=selectors("10.1.1.2/32[tcp]")), replace(CONTROL, unique_id=2)),
)


def with_child(child: ChildSa) -> IkeSa:
    return replace(NEW_SA, children=tuple(child if old.name == child.name else old for old in NEW_SA.children))


def test_complete_association_has_no_shortcomings() -> None:
    assert shortcomings(NEW_SA, ["data", "swanroam"], DEFINITIONS, [OLD_SA]) == []
    assert shortcomings(NEW_SA, ["data", "swanroam"], DEFINITIONS, []) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (replace(DATA, state=ChildState.DELETING), "data is not in IKE_SA #2"),
        (replace(DATA, mode=Mode.TUNNEL), "TUNNEL mode instead of TRANSPORT"),
        (replace(DATA, local_ts=selectors("10.1.1.2/32[tcp]")), "10.1.1.2/32[6] === 10.3.3.2/32, not for 10.2.2.2"),
        (replace(DATA, local_ts=selectors("10.2.2.2/32[udp]")), "but for 10.1.1.2/32[6] === 10.3.3.2/32 in IKE_SA #1"),
        (replace(CONTROL, remote_ts=selectors("fd53::3/128")), "swanroam is for fd53::1/128 === fd53::3/128, but for"),
    ],
    ids=["not there", "fallback to tunnel", "wrong host", "wrong protocol", "wrong inner address"],
)
def test_shortcomings_are_named(changed: ChildSa, said: str) -> None:
    found = shortcomings(with_child(changed), ["data", "swanroam"], DEFINITIONS, [OLD_SA])
    assert len(found) == 1
    assert said in found[0]


def test_kernel_must_hold_both_directions_of_usable_children() -> None:
    replaced = replace(DATA, unique_id=9, state=ChildState.DELETED)
    states = expected_states(replace(NEW_SA, children=(DATA, CONTROL, replaced)))
    assert [(state.child, state.direction, state.spi) for state in states] == [
        ("data", Direction.IN, 0xC1),
        ("data", Direction.OUT, 0xC2),
        ("swanroam", Direction.IN, 0xC3),
        ("swanroam", Direction.OUT, 0xC4),
    ]
    assert states[1] == ExpectedState(
        child="data",
        direction=Direction.OUT,
        spi=0xC2,
        source=NEW,
        destination=PEER,
        reqid=1,
        mode=Mode.TRANSPORT,
        protocol="ESP",
        source_ts=DATA.local_ts,
        destination_ts=DATA.remote_ts,
        if_id=0,
        mark=None,
        encapsulation_ports=None,
    )
    assert (states[0].source, states[0].destination) == (PEER, NEW)
    assert states[3].mark == Mark(0x10)


def test_ports_of_encapsulated_children_are_the_ike_ports() -> None:
    encapsulated = replace(DATA, udp_encapsulation=True)
    behind_nat = replace(NEW_SA, remote=Endpoint(PEER, 40000, "peer"), children=(encapsulated,))
    assert [state.encapsulation_ports for state in expected_states(behind_nat)] == [(40000, 4500), (4500, 40000)]


def test_association_that_is_updating_promises_nothing() -> None:
    updating = replace(DATA, state=ChildState.UPDATING, spi_in=None, spi_out=None)
    assert expected_states(replace(NEW_SA, children=(updating,))) == ()

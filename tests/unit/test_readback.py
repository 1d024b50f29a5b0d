"""What charon says, compared with what the kernel holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from swanroam.ike import readback
from swanroam.ike.associations import Endpoint, IkeSa
from swanroam.ike.readback import contradictions, read_back
from swanroam.kernel.xfrm.association import Encapsulation, SecurityAssociation
from swanroam.kernel.xfrm.constants import Direction
from swanroam.kernel.xfrm.constants import Mode as KernelMode
from swanroam.kernel.xfrm.policy import Policy, Template
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket
from unit.child_sas import CONTROL, DATA, IKE, PEER, A, P, selectors

INNER_A, INNER_P = map(ip_address, ("fd53::1", "fd53::2"))
STATES = [
    SecurityAssociation(Selector.between(P, A), P, A, 0xC1, reqid=1),
    SecurityAssociation(Selector.between(A, P), A, P, 0xC2, reqid=1),
    SecurityAssociation(Selector.between(P, A), P, A, 0xC3, reqid=2, mode=KernelMode.TUNNEL),
    SecurityAssociation(Selector.between(A, P), A, P, 0xC4, reqid=2, mode=KernelMode.TUNNEL),
]
POLICIES = [
    Policy(Selector.between(A, P), Direction.OUT, templates=(Template(1),)),
    Policy(Selector.between(P, A), Direction.IN, templates=(Template(1),)),
    Policy(
        Selector.between(INNER_A, INNER_P), Direction.OUT, templates=(Template(2, KernelMode.TUNNEL, saddr=A, daddr=P),)
    ),
    Policy(
        Selector.between(INNER_P, INNER_A), Direction.IN, templates=(Template(2, KernelMode.TUNNEL, saddr=P, daddr=A),)
    ),
]


def found(
    change_state: Callable[[SecurityAssociation], SecurityAssociation | None] = lambda state: state,
    change_policy: Callable[[Policy], Policy | None] = lambda policy: policy,
    *ike_sas: IkeSa,
) -> list[str]:
    states = [changed for state in STATES if (changed := change_state(state)) is not None]
    policies = [changed for policy in POLICIES if (changed := change_policy(policy)) is not None]
    return contradictions(ike_sas or (IKE,), states, policies).get(IKE.unique_id, [])


def test_a_host_where_all_is_in_place_has_no_contradiction() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda sa: None if sa.spi == 0xC2 else sa, "CHILD_SA data, outbound SA 0x000000c2 to 10.3.3.2 is not in the"),
        (lambda sa: None if sa.spi == 0xC1 else sa, "CHILD_SA data, inbound SA 0x000000c1 to 10.1.1.2 is not in the"),
        (
            lambda sa: replace(sa, mode=KernelMode.TUNNEL) if sa.spi == 0xC2 else sa,
            "CHILD_SA data, outbound SA 0x000000c2 is in transport mode by charon, tunnel by the kernel",
        ),
        (lambda sa: replace(sa, reqid=9) if sa.spi == 0xC3 else sa, "has reqid 2 by charon, 9 by the kernel"),
        (lambda sa: replace(sa, if_id=5) if sa.spi == 0xC3 else sa, "has if_id 0x0 by charon, 0x5 by the kernel"),
        (
            lambda sa: replace(sa, saddr=ip_address("10.2.2.2")) if sa.spi == 0xC2 else sa,
            "comes from 10.1.1.2 by charon, from 10.2.2.2 by the kernel",
        ),
        (
            lambda sa: replace(sa, encapsulation=Encapsulation(2, 4500, 4500)) if sa.spi == 0xC2 else sa,
            "charon and the kernel differ about UDP encapsulation",
        ),
    ],
)
def test_an_sa_that_is_missing_or_another_is_told(
    change: Callable[[SecurityAssociation], SecurityAssociation | None], text: str
) -> None:
    (problem,) = found(change)
    assert text in problem


@pytest.mark.parametrize("wrong", range(len(POLICIES)))
def test_each_policy_that_is_missing_is_told(wrong: int) -> None:
    (problem,) = found(change_policy=lambda policy: None if policy is POLICIES[wrong] else policy)
    child = "data" if wrong < 2 else "swanroam"
    assert problem.startswith(f"CHILD_SA {child}: the kernel has no {'in' if wrong % 2 else 'out'} policy")


def test_a_policy_for_another_sa_does_not_count() -> None:
    problems = found(change_policy=lambda policy: replace(policy, templates=(replace(policy.templates[0], reqid=77),)))
    assert len(problems) == len(POLICIES)


def test_a_tunnel_policy_with_other_ends_does_not_count() -> None:
    def moved(policy: Policy) -> Policy:
        (template,) = policy.templates
        return replace(policy, templates=(replace(template, saddr=ip_address("10.2.2.2")),))

    assert [problem.split(":")[0] for problem in found(change_policy=moved)] == ["CHILD_SA swanroam"] * 2


def test_protocol_and_port_of_a_policy_count() -> None:
    web = replace(DATA, remote_ts=selectors("10.3.3.2/32[tcp/443]"))
    narrow = [
        Policy(Selector.between(A, P, protocol=6, destination_port=443), Direction.OUT, templates=(Template(1),)),
        Policy(Selector.between(P, A, protocol=6, source_port=443), Direction.IN, templates=(Template(1),)),
    ]
    ike_sa = replace(IKE, children=(web,))
    assert contradictions([ike_sa], STATES, narrow) == {}
    assert len(contradictions([ike_sa], STATES, POLICIES)[IKE.unique_id]) == 2


def test_an_sa_that_accepts_any_source_is_the_widened_one_of_method_migrate() -> None:
    anywhere = ip_address("0.0.0.0")
    assert found(lambda state: replace(state, saddr=anywhere) if state.spi == 0xC1 else state) == []


def test_of_two_control_children_the_kernel_has_the_policy_of_the_newer() -> None:
    older = replace(CONTROL, unique_id=1, spi_in=0xC5, spi_out=0xC6)
    other = replace(IKE, unique_id=3, local=Endpoint(ip_address("10.9.9.9"), 500, "m"), children=(older,))
    states = [
        *STATES,
        SecurityAssociation(Selector.between(P, A), P, ip_address("10.9.9.9"), 0xC5, reqid=2, mode=KernelMode.TUNNEL),
        SecurityAssociation(Selector.between(A, P), ip_address("10.9.9.9"), P, 0xC6, reqid=2, mode=KernelMode.TUNNEL),
    ]
    assert contradictions([IKE, other], states, POLICIES) == {}


def test_a_contradiction_of_the_moment_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([[], STATES[:3], STATES])

    async def states(xfrm: object) -> list[SecurityAssociation]:
        return next(readings)

    async def policies(xfrm: object) -> list[Policy]:
        return POLICIES

    monkeypatch.setattr(readback, "dump_states", states)
    monkeypatch.setattr(readback, "dump_policies", policies)
    monkeypatch.setattr(readback, "PAUSE", 0)
    asked = 0

    async def listed() -> list[IkeSa]:
        nonlocal asked
        asked += 1
        return [IKE]

    xfrm = object.__new__(XfrmSocket)
    assert asyncio.run(read_back(xfrm, listed, [PEER])) == ([IKE], {})
    assert asked == 3


def test_ike_sas_with_others_are_not_compared() -> None:
    async def listed() -> list[IkeSa]:
        return [IKE]

    xfrm = object.__new__(XfrmSocket)  # would raise if it was asked for anything
    assert asyncio.run(read_back(xfrm, listed, ["another.example.org"])) == ([IKE], {})

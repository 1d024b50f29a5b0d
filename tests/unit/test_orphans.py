"""What a charon that died has left in the kernel, told from what a living one has, and when it may go."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from swanroam.daemon import leftovers as leftovers_module
from swanroam.daemon.leftovers import IN_FLIGHT, Leftovers
from swanroam.ike.orphans import Orphans, orphans
from swanroam.ike.vici import ViciClient
from swanroam.kernel.xfrm.algorithms import AeadAlgorithm, KeyMaterial
from swanroam.kernel.xfrm.association import AssociationId, SecurityAssociation
from swanroam.kernel.xfrm.constants import Action, Direction, Mode
from swanroam.kernel.xfrm.policies import OWNER
from swanroam.kernel.xfrm.policy import Policy, Template
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.protocol.events import AssociationsRead
from unit import fake_host
from unit.child_sas import CONTROL, IKE, A, P
from unit.fake_host import Stage, on_stage

B = ip_address("10.2.2.2")
INNER_A, INNER_P = map(ip_address, ("fd53::1", "fd53::2"))
KEYS = AeadAlgorithm("rfc4106(gcm(aes))", 160, 128, KeyMaterial(bytes(range(20))))


def state(
    source: object, destination: object, spi: int, reqid: int, mode: Mode = Mode.TRANSPORT
) -> SecurityAssociation:
    return SecurityAssociation(
        Selector.between(source, destination), source, destination, spi, reqid=reqid, mode=mode, aead=KEYS
    )


STATES = [
    state(P, A, 0xC1, 1),
    state(A, P, 0xC2, 1),
    state(P, A, 0xC3, 2, Mode.TUNNEL),
    state(A, P, 0xC4, 2, Mode.TUNNEL),
]
DATA_OUT = Policy(Selector.between(A, P), Direction.OUT, templates=(Template(1, spi=0xC2),))
DATA_IN = Policy(Selector.between(P, A), Direction.IN, templates=(Template(1),))
CONTROL_OUT = Policy(
    Selector.between(INNER_A, INNER_P), Direction.OUT, templates=(Template(2, Mode.TUNNEL, saddr=A, daddr=P, spi=0xC4),)
)
CONTROL_IN, CONTROL_FORWARD = (
    Policy(Selector.between(INNER_P, INNER_A), way, templates=(Template(2, Mode.TUNNEL, saddr=P, daddr=A),))
    for way in (Direction.IN, Direction.FWD)
)
POLICIES = [DATA_OUT, DATA_IN, CONTROL_OUT, CONTROL_IN, CONTROL_FORWARD]
AP = frozenset((A, P))
EVERYTHING = {state.id for state in STATES} | set(POLICIES)


def test_what_a_living_charon_has_is_no_orphan() -> None:
    assert orphans([IKE], STATES, POLICIES) == {}


def test_a_new_charon_knows_nothing_of_what_the_dead_one_had() -> None:
    assert orphans([], STATES, POLICIES) == dict.fromkeys(EVERYTHING, AP)


def test_each_child_sa_has_its_own() -> None:
    only_control = replace(IKE, children=(CONTROL,))
    assert orphans([only_control], STATES, POLICIES) == dict.fromkeys(
        [STATES[0].id, STATES[1].id, DATA_OUT, DATA_IN], AP
    )


@pytest.mark.parametrize(
    "policy",
    [
        replace(DATA_OUT, templates=(Template(1),)),  # a trap
        Policy(Selector.between(A, P), Direction.OUT),
        Policy(Selector.between(A, P, user=OWNER), Direction.OUT, Action.BLOCK),
        DATA_IN,
        Policy(Selector.between(B, A), Direction.IN, templates=(Template(1),)),
    ],
    ids=["trap", "bypass", "guard", "inbound alone", "inbound of others"],
)
def test_other_policies_are_none(policy: Policy) -> None:
    found = orphans([], [], [policy, DATA_OUT] if policy.selector.saddr == B else [policy])
    assert policy not in found


@pytest.mark.parametrize(
    "other",
    [replace(STATES[0], aead=None), replace(STATES[0], proto=108)],
    ids=["SPI that is reserved for a CHILD_SA to come", "IPComp"],
)
def test_other_states_are_none(other: SecurityAssociation) -> None:
    assert orphans([], [other], []) == {}


def test_an_sa_that_was_migrated_is_charons_at_every_address() -> None:
    assert orphans([IKE], [replace(STATES[0], daddr=B)], []) == {}


class Kernel:
    """Orphans that there are, instead of the kernel and charon."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.present: Orphans = {}
        self.readings = 0
        monkeypatch.setattr(leftovers_module, "find_orphans", self._find)
        monkeypatch.setattr(leftovers_module, "remove_orphans", self._remove)
        monkeypatch.setattr(leftovers_module, "XfrmSocket", lambda: self)

    async def __aenter__(self) -> Kernel:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def _find(self, client: object, xfrm: object) -> Orphans:
        self.readings += 1
        return dict(self.present)

    async def _remove(self, xfrm: object, found: set[AssociationId | Policy]) -> None:
        self.present = {orphan: ends for orphan, ends in self.present.items() if orphan not in found}


def look_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Kernel, Leftovers]:
    return Kernel(monkeypatch), Leftovers(ViciClient(tmp_path / "vici"))


def test_what_a_dead_charon_left_goes_when_new_child_sas_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, leftovers = look_after(tmp_path, monkeypatch)

    async def story(stage: Stage) -> None:
        a, p = fake_host.A, fake_host.P
        machine = stage.peer.machine
        kernel.present = {state.id: frozenset((a, p)) for state in STATES}
        stage.associated((a, p))
        await stage.until(lambda: stage.sent)
        stage.acknowledge()
        await stage.until(lambda: machine.managed)
        stage.submit(AssociationsRead(()))
        await stage.until(lambda: not machine.associations)
        leftovers.charon_came()
        for _ in range(3):
            await leftovers.look([machine])
            await asyncio.sleep(IN_FLIGHT)
        assert len(kernel.present) == 4, "connections go on by them"

        stage.associated((a, p))
        await stage.until(lambda: machine.associations)
        await leftovers.look([machine])
        assert len(kernel.present) == 4, "the peer may still send by them"
        await asyncio.sleep(IN_FLIGHT)
        await leftovers.look([machine])
        assert not kernel.present

    on_stage(tmp_path, story)


def test_what_was_there_for_others_or_has_come_since_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, leftovers = look_after(tmp_path, monkeypatch)

    async def story(stage: Stage) -> None:
        a, p = fake_host.A, fake_host.P
        kernel.present = {STATES[0].id: frozenset((a, B))}
        stage.associated((a, p))
        await stage.until(lambda: stage.sent)
        stage.acknowledge()
        await stage.until(lambda: stage.peer.machine.managed)
        leftovers.charon_came()
        await leftovers.look([stage.peer.machine])
        kernel.present[STATES[1].id] = frozenset((a, p))
        for _ in range(3):
            await asyncio.sleep(IN_FLIGHT)
            await leftovers.look([stage.peer.machine])
        assert len(kernel.present) == 2

    on_stage(tmp_path, story)


def test_nothing_is_read_while_there_is_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, leftovers = look_after(tmp_path, monkeypatch)

    async def story() -> None:
        for _ in range(3):
            await leftovers.look([])
        assert kernel.readings == 0
        leftovers.charon_came()
        for _ in range(3):
            await leftovers.look([])
        assert kernel.readings == 1

    asyncio.run(story())

"""Does the kernel hold what charon says? The SAD and the SPD, compared with charon's CHILD_SAs.

charon tells what it believes to have installed. Somebody else may have flushed it, and a responder that fell back to
tunnel mode, a policy that was overwritten or an SA that expired shows in the kernel first. What charon says and what
the kernel holds are read one after the other, so a rekey in between looks like a contradiction: read again before
believing one.

Compared are address, SPI, reqid, mode, interface identifier and UDP encapsulation of each SA, and for each pair of
traffic selectors an outbound and an inbound policy with a template for that SA. Ranges of addresses and ports are not
compared to the last bit, because charon widens them to what a policy can express
(ts2selector, kernel_netlink_ipsec.c). A host that came by method migrate accepts more sources than charon says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence

from swanroam.ike.associations import ChildSa, IkeSa
from swanroam.ike.associations import Mode as IkeMode
from swanroam.ike.expectations import Direction as Way
from swanroam.ike.expectations import ExpectedState, expected_states
from swanroam.ike.selectors import TrafficSelector
from swanroam.kernel.xfrm.association import SecurityAssociation
from swanroam.kernel.xfrm.codec import IPAddress, IPNetwork
from swanroam.kernel.xfrm.constants import IPPROTO_AH, IPPROTO_ESP, IPPROTO_ICMPV6, Direction, Mode
from swanroam.kernel.xfrm.policies import dump_policies
from swanroam.kernel.xfrm.policy import Policy, Template
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.kernel.xfrm.states import dump_states

READINGS = 4
"""How often charon and the kernel are read before a contradiction is believed."""
PAUSE = 0.05
"""Seconds between two readings."""

_ICMP = (1, IPPROTO_ICMPV6)  # there the ports are type and code
_PROTOCOLS = {"ESP": IPPROTO_ESP, "AH": IPPROTO_AH}
_MODES = {IkeMode.TRANSPORT: Mode.TRANSPORT, IkeMode.TUNNEL: Mode.TUNNEL, IkeMode.BEET: Mode.BEET}

_States = Mapping[tuple[IPAddress, int, int], SecurityAssociation]


async def read_back(
    xfrm: XfrmSocket, list_them: Callable[[], Awaitable[Sequence[IkeSa]]], identities: Collection[str]
) -> tuple[Sequence[IkeSa], dict[int, list[str]]]:
    """IKE_SAs, and what the kernel lacks of those with these peers, by their identifiers; where nothing, no entry.

    A contradiction is believed when it is still there after a few readings. Raises XfrmError, and what `list_them`
    raises.
    """
    ike_sas = await list_them()
    for reading in range(1, READINGS + 1):
        compared = [ike_sa for ike_sa in ike_sas if ike_sa.remote.identity in identities]
        if not compared:
            break
        found = contradictions(compared, await dump_states(xfrm), await dump_policies(xfrm))
        if not found or reading == READINGS:
            return ike_sas, found
        await asyncio.sleep(PAUSE)
        ike_sas = await list_them()
    return ike_sas, {}


def contradictions(
    ike_sas: Collection[IkeSa], states: Iterable[SecurityAssociation], policies: Collection[Policy]
) -> dict[int, list[str]]:
    """The same, of what was read once: sentences that name the CHILD_SA, what it should have, and what is there."""
    by_id = {(state.daddr, state.spi, state.proto): state for state in states}
    newest = _newest(ike_sas)
    found: dict[int, list[str]] = {}
    for ike_sa in ike_sas:
        problems = [problem for expected in expected_states(ike_sa) for problem in _state_problems(expected, by_id)]
        for child in ike_sa.children:
            if child.is_usable and child.unique_id in newest:
                problems += _policy_problems(ike_sa, child, policies)
        if problems:
            found[ike_sa.unique_id] = problems
    return found


def _newest(ike_sas: Iterable[IkeSa]) -> set[int]:
    """CHILD_SAs that the kernel's policies are of: of those with equal selectors the one that was installed last."""
    children = [child for ike_sa in ike_sas for child in ike_sa.children if child.is_usable]
    return {
        child.unique_id
        for child in children
        if not any(other.unique_id > child.unique_id and child.same_selectors(other) for other in children)
    }


def _state_problems(expected: ExpectedState, states: _States) -> Iterator[str]:
    name = f"CHILD_SA {expected.child}, {expected.direction.value}bound SA {expected.spi:#010x}"
    protocol = _PROTOCOLS.get(expected.protocol)
    if protocol is None or expected.mode not in _MODES:
        return
    state = states.get((expected.destination, expected.spi, protocol))
    if state is None:
        yield f"{name} to {expected.destination} is not in the kernel"
        return
    if not state.saddr.is_unspecified and state.saddr != expected.source:
        yield f"{name} comes from {expected.source} by charon, from {state.saddr} by the kernel"
    if state.mode is not _MODES[expected.mode]:
        yield f"{name} is in {expected.mode.value.lower()} mode by charon, {state.mode.name.lower()} by the kernel"
    if state.reqid != expected.reqid:
        yield f"{name} has reqid {expected.reqid} by charon, {state.reqid} by the kernel"
    if state.if_id != expected.if_id:
        yield f"{name} has if_id {expected.if_id:#x} by charon, {state.if_id:#x} by the kernel"
    if (state.encapsulation is not None) != (expected.encapsulation_ports is not None):
        yield f"{name}: charon and the kernel differ about UDP encapsulation"


def _policy_problems(ike_sa: IkeSa, child: ChildSa, policies: Collection[Policy]) -> Iterator[str]:
    outer = {Way.OUT: (ike_sa.local.host, ike_sa.remote.host), Way.IN: (ike_sa.remote.host, ike_sa.local.host)}
    for local in child.local_ts:
        for remote in child.remote_ts:
            if local.start is None or remote.start is None or local.start.version != remote.start.version:
                continue
            for way, source, destination in ((Way.OUT, local, remote), (Way.IN, remote, local)):
                direction = Direction.OUT if way is Way.OUT else Direction.IN
                if not any(
                    policy.direction is direction
                    and _selects(policy, source, destination)
                    and any(_serves(template, child, outer[way]) for template in policy.templates)
                    for policy in policies
                ):
                    yield (
                        f"CHILD_SA {child.name}: the kernel has no {way.value} policy {source} -> {destination} that "
                        f"asks for its {child.mode.value.lower()} mode SA, reqid {child.reqid}"
                    )


def _selects(policy: Policy, source: TrafficSelector, destination: TrafficSelector) -> bool:
    selector = policy.selector
    return (
        selector.proto == max(source.protocol, destination.protocol)
        and _covers(selector.source, source)
        and _covers(selector.destination, destination)
        and (selector.proto in _ICMP or (_one_port(source) in (None, selector.sport)))
        and (selector.proto in _ICMP or (_one_port(destination) in (None, selector.dport)))
    )


def _one_port(selector: TrafficSelector) -> int | None:
    first, last = selector.ports
    return first if first == last else None


def _covers(network: IPNetwork, selector: TrafficSelector) -> bool:
    """A network lies in one family, and an address of another family in no network."""
    return all(address is not None and address in network for address in (selector.start, selector.end))


def _serves(template: Template, child: ChildSa, outer: tuple[object, object]) -> bool:
    if (template.reqid, template.proto) != (child.reqid, _PROTOCOLS.get(child.protocol)):
        return False
    if template.mode is not _MODES.get(child.mode):
        return False
    return child.mode is not IkeMode.TUNNEL or (template.saddr, template.daddr) == outer

"""What a charon that died has left in the kernel: SAs, and the policies of its CHILD_SAs.

A charon that is killed takes nothing away, and the next one looks at nothing that is there. For a pair of addresses for
which it makes CHILD_SAs anew it puts its policies in the place of the old ones; the old SAs, and the policies of other
pairs, would stay until they expire, or for ever.

An orphan is known by its SPI, which no CHILD_SA of charon's has. A policy tells the SPI only where it is outbound
(add_policy_internal, kernel_netlink_ipsec.c); traps and what an administrator adds have none there. Inbound ones are
known by the outbound one with their reqid. SPIs that charon has just reserved have no keys yet: they are none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain

from swanroam.ike.associations import IkeSa, list_ike_sas
from swanroam.ike.vici import ViciClient
from swanroam.kernel.xfrm.association import AssociationId, SecurityAssociation
from swanroam.kernel.xfrm.codec import IPAddress
from swanroam.kernel.xfrm.constants import IPPROTO_AH, IPPROTO_ESP, Direction, Mode
from swanroam.kernel.xfrm.errors import XfrmNotFound
from swanroam.kernel.xfrm.policies import delete_policy, dump_policies
from swanroam.kernel.xfrm.policy import Policy
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.kernel.xfrm.states import delete_state, dump_states

Ends = frozenset[IPAddress]
"""The two addresses between which an SA's packets travel, whichever way."""
Orphan = AssociationId | Policy
Orphans = dict[Orphan, Ends]


async def find_orphans(client: ViciClient, xfrm: XfrmSocket) -> Orphans:
    """Everything of this kind that there is, whoever made it. Raises XfrmError, ViciError.

    The kernel is read first: what it has by then, and is charon's, charon tells when it is asked afterwards.
    """
    states, policies = await dump_states(xfrm), await dump_policies(xfrm)
    return orphans(await list_ike_sas(client, noblock=False), states, policies)


async def remove_orphans(xfrm: XfrmSocket, found: Iterable[Orphan]) -> None:
    """Deletes SAs, then policies. What is gone already is fine. Raises XfrmError."""
    ordered = sorted(found, key=lambda orphan: isinstance(orphan, Policy))
    for orphan in ordered:
        with suppress(XfrmNotFound):
            if isinstance(orphan, Policy):
                await delete_policy(xfrm, orphan)
            else:
                await delete_state(xfrm, orphan)


def orphans(ike_sas: Iterable[IkeSa], states: Iterable[SecurityAssociation], policies: Collection[Policy]) -> Orphans:
    """The same, of what was read."""
    spis = {spi for ike_sa in ike_sas for child in ike_sa.children for spi in (child.spi_in, child.spi_out)}
    found: Orphans = {}
    for state in states:
        if state.spi not in spis and state.proto in (IPPROTO_ESP, IPPROTO_AH) and not _is_reserved(state):
            found[state.id] = frozenset((state.saddr, state.daddr))
    for policy in policies:
        for template in policy.templates:
            if policy.direction is Direction.OUT and template.spi and template.spi not in spis:
                outer = template if template.mode is Mode.TUNNEL else policy.selector
                ends = frozenset((outer.saddr, outer.daddr))
                found.update(dict.fromkeys(chain([policy], _inbound(policy, template.reqid, policies)), ends))
    return found


def _inbound(outbound: Policy, reqid: int, policies: Iterable[Policy]) -> Iterator[Policy]:
    """What lets in the answers to what an outbound policy sends."""
    there, here = outbound.selector.destination, outbound.selector.source
    for policy in policies:
        if (
            policy.direction in (Direction.IN, Direction.FWD)
            and (policy.selector.source, policy.selector.destination) == (there, here)
            and any(template.reqid == reqid for template in policy.templates)
        ):
            yield policy


def _is_reserved(state: SecurityAssociation) -> bool:
    """Only its SPI is taken; there are no keys."""
    return not (state.aead or state.encryption or state.authentication or state.truncated_authentication)

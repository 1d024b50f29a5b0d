"""The SAD: read it, and make the clones that keep an old address accepted for a while (method migrate).

Input finds its SA by destination, SPI and protocol, never by the source; the selector and the policy's template are
checked after decryption. So an inbound SA accepts a second destination by a clone, and a second source by a wider
selector.

Safety of counter-mode ciphers (RFC 4106 section 10, RFC 4303 section 3.3.3): two SAs that can *send* must never have
one key, or a sequence number, and with hardware offload a nonce, is used twice. Everything here therefore clones
inbound SAs, or takes the old SA away before it adds the new one. Lifetime counters are copied, so limits are not reset.
Source: xfrm_input (net/xfrm/xfrm_input.c), xfrm_state_find (net/xfrm/xfrm_state.c), xfrm_notify_sa and
copy_to_user_state_extra (net/xfrm/xfrm_user.c). Not described by the kernel in an SA, hence not cloned: the replay and
timer thresholds of key manager events (XFRMA_REPLAY_THRESH, XFRMA_ETIMER_THRESH); the namespace's defaults apply.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from swanroam.kernel.xfrm.association import NO_STATISTICS, AssociationId, SecurityAssociation
from swanroam.kernel.xfrm.codec import ADDRESS, Attribute, IPAddress, IPNetwork, Layout, encode_address
from swanroam.kernel.xfrm.constants import AttributeType, Family, Group, MessageType, Mode
from swanroam.kernel.xfrm.errors import XfrmError, XfrmExists, XfrmOverrun, XfrmUnsupported
from swanroam.kernel.xfrm.events import AssociationChanged, Change, decode_event
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import Request, XfrmSocket

ADDRESS_FILTER: Final = Layout("xfrm_address_filter", saddr=ADDRESS, daddr=ADDRESS, family="H", splen="B", dplen="B")


@dataclass(frozen=True, slots=True)
class AddressFilter:
    """Restricts a dump, inside the kernel, to SAs whose endpoints lie in two prefixes of one family."""

    source: IPNetwork
    destination: IPNetwork

    def encode(self) -> bytes:
        family = Family.INET if self.source.version == 4 else Family.INET6
        return ADDRESS_FILTER.pack(
            saddr=encode_address(self.source.network_address),
            daddr=encode_address(self.destination.network_address),
            family=family,
            splen=self.source.prefixlen,
            dplen=self.destination.prefixlen,
        )


async def dump_states(xfrm: XfrmSocket, only: AddressFilter | None = None) -> list[SecurityAssociation]:
    """The SAs of the namespace, with their keys. Raises XfrmError."""
    body = b"" if only is None else Attribute(AttributeType.ADDRESS_FILTER, only.encode()).encode()
    replies = await xfrm.dump(Request(MessageType.GETSA, body, "list SAs"))
    return [SecurityAssociation.decode(message.payload) for message in replies]


async def get_state(xfrm: XfrmSocket, identifier: AssociationId) -> SecurityAssociation:
    """One SA. Raises XfrmNotFound."""
    (reply,) = await xfrm.ask(Request(MessageType.GETSA, identifier.encode(), "read SA", identifier))
    return SecurityAssociation.decode(reply.payload)


async def add_state(xfrm: XfrmSocket, association: SecurityAssociation) -> None:
    """Add an SA with the keys it holds. Raises XfrmExists, XfrmUnsupported, XfrmError."""
    require_keys(association)
    await xfrm.execute(Request(MessageType.NEWSA, association.encode(), "add SA", association))


async def delete_state(xfrm: XfrmSocket, identifier: AssociationId) -> None:
    """Delete one SA. Raises XfrmNotFound."""
    await xfrm.execute(Request(MessageType.DELSA, identifier.encode(), "delete SA", identifier))


async def delete_reading_final(xfrm: XfrmSocket, identifier: AssociationId) -> SecurityAssociation:
    """Delete one SA and return it as it was at the end, with its last sequence numbers and replay window.

    What GETSA tells before a deletion can be overtaken by packets; the kernel's notice of the deletion cannot.
    Raises XfrmNotFound, XfrmOverrun when the notice was lost (the SA is gone then), XfrmError.
    """
    request = Request(MessageType.DELSA, identifier.encode(), "delete SA", identifier)
    for message in await xfrm.ask(request, notices=Group.SA):
        match decode_event(message):
            case AssociationChanged(Change.DELETED, association):
                return association
    raise XfrmOverrun(errno.ENOBUFS, "read the deleted SA's final state", str(identifier))


async def replace_state(
    xfrm: XfrmSocket, identifier: AssociationId, change: Callable[[SecurityAssociation], SecurityAssociation]
) -> SecurityAssociation:
    """Delete an SA and add `change` of its final state; for a changed selector or source of an inbound SA.

    The three requests are answered while they are sent and no other task runs between them; in that time, some 100 us,
    the SA does not exist and its packets are dropped (XfrmInNoStates). When a step fails, the old SA is put back.
    Raises XfrmError, or what `change` raises for the SA, before anything is done.
    """
    before = await get_state(xfrm, identifier)
    require_keys(change(before))
    try:
        final = await delete_reading_final(xfrm, identifier)
    except XfrmOverrun:  # the answer is lost, so the SA may be gone or not
        with suppress(XfrmExists):
            await add_state(xfrm, before)
        raise
    changed = change(final)
    try:
        await add_state(xfrm, changed)
    except XfrmError:
        await add_state(xfrm, final)
        raise
    return changed


def require_keys(association: SecurityAssociation) -> None:
    """Raise XfrmUnsupported for an SA that the kernel has described with its keys blanked out (lockdown)."""
    algorithms = (
        association.authentication,
        association.truncated_authentication,
        association.encryption,
        association.aead,
    )
    for algorithm in algorithms:
        if algorithm is not None and algorithm.key_bits and algorithm.key.is_blank:
            text = "its keys are hidden by the kernel's lockdown"
            raise XfrmUnsupported(errno.EOPNOTSUPP, "clone SA", str(association), text)


def clone_inbound(
    association: SecurityAssociation, daddr: IPAddress, selector: Selector | None = None
) -> SecurityAssociation:
    """An inbound SA's copy for another destination address, to stand beside it.

    Keys, replay window and lifetimes are copied, so a packet seen before the copy is refused by both; one that comes
    later passes each of them once. By default the selector's destination is changed where it was the old address.
    Only for an SA on which this host receives: the copy of an outbound SA would send with the same key.
    Raises ValueError when the families differ or the address stays the same.
    """
    if daddr.version != association.daddr.version:
        raise ValueError(f"{association} cannot be cloned for {daddr}: the address families differ")
    if daddr == association.daddr:
        raise ValueError(f"{association} has the address {daddr} already")
    if selector is None:
        selector = association.selector
        if selector.daddr == association.daddr and selector.prefixlen_d == daddr.max_prefixlen:
            selector = replace(selector, daddr=daddr)
    return replace(association, daddr=daddr, selector=selector, statistics=NO_STATISTICS, sequence=0, last_used=0)


def widen_source(association: SecurityAssociation) -> SecurityAssociation:
    """A transport-mode inbound SA that accepts any source address, with the same window: for `replace_state`.

    What may come in is still what the policies select; the SA's selector only has to contain it.
    Raises ValueError for another mode, whose policies compare the SA's addresses.
    """
    if association.mode is not Mode.TRANSPORT:
        raise ValueError(f"{association} is not in transport mode")
    anywhere: IPAddress = IPv4Address(0) if association.family is Family.INET else IPv6Address(0)
    selector = replace(association.selector, saddr=anywhere, prefixlen_s=0)
    return replace(association, saddr=anywhere, selector=selector, statistics=NO_STATISTICS, sequence=0, last_used=0)

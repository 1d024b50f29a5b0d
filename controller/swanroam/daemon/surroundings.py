"""Which addresses are somebody else's: what a machine has to know before it takes one for its peer's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from ipaddress import IPv6Network

from swanroam.protocol.authorisation import Surroundings
from swanroam.protocol.events import Event, FallbacksResolved, MessageReceived
from swanroam.protocol.messages import AddressChange, IPAddress, PathResponse
from swanroam.protocol.peer import PeerMachine


def asked_about(event: Event) -> Collection[IPAddress] | None:
    """The addresses at which the peer may be, if the event makes its machine judge some; None: it judges none."""
    match event:
        case MessageReceived(AddressChange(current=current)):
            return (current,)
        case FallbacksResolved(addresses):
            return addresses
        case MessageReceived(PathResponse()):
            return ()
        case _:
            return None


async def surroundings(
    asked: Collection[IPAddress],
    own: Iterable[IPAddress],
    others: Collection[PeerMachine],
    is_own: Callable[[IPAddress], Awaitable[bool]],
    control: IPv6Network,
) -> Surroundings:
    """What there is to know about the addresses `asked`. `own`: addresses that this host is known to have; `is_own`
    asks the kernel, and its errors are passed on; `others`: the machines of the other peers."""
    here = set(own)
    for address in asked:
        if address not in here and await is_own(address):
            here.add(address)
    registered = frozenset(address for machine in others for address in machine.correspondent.claimed)
    seen = registered.union(*(machine.seen for machine in others))
    return Surroundings(frozenset(here), seen, registered, control)

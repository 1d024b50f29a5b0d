"""Passes: datagrams that this host has received already, and sends to itself once more, reach a socket.

A host that expects everything of its peer to be protected drops what comes from the peer's address without protection.
A datagram that came protected for an old address, was taken there, and is handed on to the new one by way of `lo` is
such a packet. A pass is an `allow` policy for incoming UDP of exactly one pair of ends, and only for packets with
PASS_MARK: a packet keeps its mark on `lo`, and one from the wire has none. (An interface would tell nothing: what the
kernel compares is where the route leads, which is `lo` for all that is for this host; see `selectors`.)

A pass expires like a lock; see `locks`, also for what the clock has to do with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from swanroam.kernel.xfrm.codec import IPAddress
from swanroam.kernel.xfrm.constants import IPPROTO_UDP, Action, Direction
from swanroam.kernel.xfrm.errors import XfrmNotFound
from swanroam.kernel.xfrm.lifetimes import LifetimeLimits, Mark
from swanroam.kernel.xfrm.locks import LOCK_PRIORITY
from swanroam.kernel.xfrm.policies import delete_request, update_request
from swanroam.kernel.xfrm.policy import Policy
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket

PASS: Final = 0x73777073
"""selector.user of every pass: the letters "swps"."""

PASS_MARK: Final = 0x73777073
"""SO_MARK of who hands a datagram on."""

Ends = tuple[IPAddress, int, IPAddress, int]
"""Own address and port, the peer's address and port."""


def admission(ends: Ends, seconds: int) -> Policy:
    """The policy that lets datagrams to these ends pass for so long."""
    local, local_port, remote, remote_port = ends
    selector = Selector.between(
        remote, local, protocol=IPPROTO_UDP, source_port=remote_port, destination_port=local_port, user=PASS
    )
    limits = LifetimeLimits(hard_add_expires_seconds=seconds)
    mark = Mark(PASS_MARK, 0xFFFFFFFF)
    return Policy(selector, Direction.IN, Action.ALLOW, LOCK_PRIORITY, limits=limits, mark=mark)


async def add_passes(xfrm: XfrmSocket, some: Iterable[Ends], seconds: int) -> None:
    """For `seconds` from now on, which is at least 1, also where there is a pass already. Raises XfrmError."""
    for error in await xfrm.batch([update_request(admission(ends, seconds)) for ends in some]):
        if error is not None:
            raise error


async def remove_passes(xfrm: XfrmSocket, some: Iterable[Ends]) -> None:
    """It is no error when there is none. Raises XfrmError."""
    for error in await xfrm.batch([delete_request(admission(ends, 1)) for ends in some]):
        if error is not None and not isinstance(error, XfrmNotFound):
            raise error

"""How an IPv6 socket connects though a policy of the host blocks what it would send.

IPv4 leaves policies out on the way by the loopback device; IPv6 asks them even where nothing is sent. A policy of the
socket's own takes the host's place, for what goes between its two ends. It is there only while the socket is put back:
no program holds the socket then that runs, and connecting sends nothing. A mark on the socket tells that it has one, so
that whoever goes on in the place of a process that died takes it away first.

A policy that the program itself had given the socket is lost with it; the host's policies count then.

Source: xfrm_user_policy() in net/xfrm/xfrm_state.c, xfrm_compile_policy() in net/xfrm/xfrm_user.c,
xfrm_sk_policy_lookup() in net/xfrm/xfrm_policy.c. Needs CAP_NET_ADMIN.
"""

from __future__ import annotations

import socket

from swanroam.kernel.xfrm.constants import Direction
from swanroam.kernel.xfrm.policy import Policy
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.transport import repair
from swanroam.transport.image import FourTuple

_IPV6_XFRM_POLICY = 35
_SIGN = 1 << 31
"""The bit of the socket's mark that is another while it has our policy."""


def put_on(sock: socket.socket, target: FourTuple, mark: int) -> None:
    """Policies do not keep an IPv6 socket from connecting at `target`. `mark`: its own. Raises OSError."""
    repair.set_unsigned(sock, socket.SOL_SOCKET, socket.SO_MARK, mark ^ _SIGN)
    policy = Policy(Selector.between(target.local, target.remote), Direction.OUT)
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_XFRM_POLICY, policy.encode())


def take_off(sock: socket.socket, found: int, mark: int) -> None:
    """The policy, if the mark `found` on the socket is not its own, `mark`, but that of `put_on`. Raises OSError.

    The mark itself is to be set back afterwards, not before.
    """
    if found == mark ^ _SIGN:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_XFRM_POLICY, None, 0)

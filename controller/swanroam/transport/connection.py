"""One TCP connection gets new addresses in place, in the socket that its program has.

Its owner is stopped and no packet of the old or the new four-tuple comes in, from before `take` until after
`rebuild`, on both hosts. Then, on each host:

    take      copy everything, change nothing              -> an `Image`, its `receive_next` is the number for the peer
    rebuild   forget the connection, connect it anew, put  -> complete in the kernel, and silent: its send window is
              all back                                        closed, because the peer may not be there yet
              (both hosts have rebuilt; the four-tuples are opened)
    let_go    open the send window, push                   -> what the peer lacks goes out at once, as new data

Nothing is lost whoever dies when: `rebuild` begins by forgetting whatever state the socket is in, so that it can be
repeated from any partial one, by another process that has the socket and the image, for the same four-tuple or, to
undo, for that of the image. Not once the four-tuple is open, though: what has come in since would be forgotten too.
After `rebuild` no process of ours is needed any more: the kernel's own probe of the closed window (tcp_probe_timer)
sets the data going after one to three seconds.

What a move loses because the kernel gives no access to it: urgent data sent and not yet received (it arrives as
ordinary data), segments received out of order (the peer sends them again), the congestion state (wanted: the path is
another), TCP_SAVED_SYN, and a segment limit set with TCP_MAXSEG for a connection that is yet to be made.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Sequence
from dataclasses import replace

from swanroam.kernel.sock_diag import SocketState
from swanroam.transport import binding, detour, repair
from swanroam.transport.binding import Placing, Steering
from swanroam.transport.image import (
    SEQUENCE_MASK,
    Buffers,
    FourTuple,
    Image,
    Reason,
    Refused,
    SignatureKey,
    Window,
)
from swanroam.transport.signature import add_key

_FIN_UNACKNOWLEDGED = (SocketState.FIN_WAIT1, SocketState.LAST_ACK, SocketState.CLOSING)
_FIN_SENT = (*_FIN_UNACKNOWLEDGED, SocketState.FIN_WAIT2)
_FIN_RECEIVED = (SocketState.CLOSE_WAIT, SocketState.LAST_ACK, SocketState.CLOSING)
_MOVABLE = (SocketState.ESTABLISHED, *_FIN_SENT, SocketState.CLOSE_WAIT)

_IPPROTO_MPTCP = 262
_NOT_SENT_UNLIMITED = 0xFFFFFFFF
_NO_PEEK_OFFSET = 0xFFFFFFFF  # -1
_CONGESTION_NAME_SIZE = 16

_KEPT = (
    socket.TCP_WINDOW_CLAMP,
    socket.TCP_QUICKACK,
    44,  # TCP_RTO_MAX_MS (6.15)
    45,  # TCP_RTO_MIN_US, TCP_DELACK_MAX_US (6.18)
    46,
)
"""TCP options that tcp_disconnect() or connecting resets, in the order in which they are set again."""

_CHUNK = 1 << 15
"""Octets given to the receive queue at once: the kernel takes each as one buffer."""

_BUFFER_ROOM = 1 << 20

_DEFAULT_SEGMENT = 536  # TCP_MSS_DEFAULT


def inspect(sock: socket.socket, rqueue: int | None = None, *, interface: int = 0) -> None:
    """Refuse what is known beforehand not to be movable. Changes nothing.

    `rqueue`: what inet_diag says of the receive queue (`idiag_rqueue`, octets and a FIN), with the owner stopped; None
    when it may run. `interface`: index of the device that has the new address, 0 when it is not known.

    That a client was bound to the old address and a port is seen only by `rebuild`. Raises Refused, OSError.
    """
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == _IPPROTO_MPTCP:
        raise Refused(Reason.MULTIPATH)
    state = repair.info(sock).state
    if state not in _MOVABLE:
        raise Refused(Reason.STATE)
    if sock.getsockopt(socket.IPPROTO_TCP, repair.TCP_REPAIR):
        raise Refused(Reason.REPAIR)
    name = sock.getsockopt(socket.IPPROTO_TCP, repair.TCP_ULP, _CONGESTION_NAME_SIZE).rstrip(b"\0")
    if name:
        raise Refused(Reason.UPPER_PROTOCOL, name.decode("ascii", "replace"))
    if repair.signed_with_ao(sock):
        raise Refused(Reason.AUTHENTICATION_OPTION)
    device = sock.getsockopt(socket.SOL_SOCKET, repair.SO_BINDTOIFINDEX)
    if device and interface and device != interface:
        raise Refused(Reason.BOUND_TO_DEVICE)
    if repair.optional(sock, socket.SOL_SOCKET, repair.SO_PEEK_OFF) not in (None, _NO_PEEK_OFFSET):
        raise Refused(Reason.PEEK_OFFSET)
    # An urgent octet that is there and unread, and one further on than SIOCINQ counts.
    urgent = rqueue is not None and rqueue > repair.unread(sock) + (state in _FIN_RECEIVED)
    if urgent or _events(sock) & select.POLLPRI:
        raise Refused(Reason.URGENT_DATA)


def read_number(sock: socket.socket) -> int:
    """Sequence number before which everything has been received, not counting a FIN. Raises OSError.

    The socket is in repair mode meanwhile; see `clear_repair`.
    """
    reuse_address = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    state = repair.info(sock).state
    repair.enter(sock)
    try:
        repair.choose_queue(sock, repair.RECEIVE_QUEUE)
        return (repair.sequence(sock) - (state in _FIN_RECEIVED)) & SEQUENCE_MASK
    finally:
        clear_repair(sock, reuse_address)


def clear_repair(sock: socket.socket, reuse_address: int) -> None:
    """Make good that a process died in `read_number` or `take`. `reuse_address`: SO_REUSEADDR as it was before."""
    repair.leave(sock, reuse_address)


def take(sock: socket.socket, keys: Sequence[SignatureKey] = ()) -> Image:
    """The whole connection as data. The socket goes on as it was.

    `keys`: its TCP-MD5 keys, which only inet_diag tells (`signature.decode_keys`). Raises OSError.
    The socket is in repair mode meanwhile; see `clear_repair`.
    """
    settings = binding.settings(sock)
    agreed = repair.info(sock)
    addresses = binding.four_tuple(sock)
    fin_received = agreed.state in _FIN_RECEIVED
    unacknowledged = repair.unconfirmed(sock) - (agreed.state in _FIN_UNACKNOWLEDGED)
    unread = repair.unread(sock)
    reading_ended = not fin_received and bool(_events(sock) & select.POLLRDHUP)
    buffers = _buffers(sock)
    kept = tuple(
        (option, value) for option in _KEPT if (value := repair.optional(sock, socket.IPPROTO_TCP, option)) is not None
    )
    repair.enter(sock)
    try:
        segment_limit = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        window = repair.window(sock)
        repair.choose_queue(sock, repair.RECEIVE_QUEUE)
        receive_next = (repair.sequence(sock) - fin_received) & SEQUENCE_MASK
        received = repair.copy_queue(sock, unread)
        repair.choose_queue(sock, repair.SEND_QUEUE)
        write_next = (repair.sequence(sock) - (agreed.state in _FIN_SENT)) & SEQUENCE_MASK
        written = repair.copy_queue(sock, unacknowledged)
    finally:
        clear_repair(sock, settings.reuse_address)
    return Image(
        family=sock.family,
        addresses=addresses,
        settings=settings,
        buffers=buffers,
        window=window,
        receive_next=receive_next,
        received=received,
        write_next=write_next,
        unacknowledged=written,
        fin_sent=agreed.state in _FIN_SENT,
        fin_received=fin_received,
        reading_ended=reading_ended,
        segment_limit=segment_limit,
        selective_acks=agreed.selective_acks,
        timestamps=agreed.timestamps,
        send_scale=agreed.send_scale,
        receive_scale=agreed.receive_scale,
        no_delay=sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
        cork=sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK),
        kept=kept,
        congestion_control=_congestion_control(sock),
        keys=tuple(keys),
    )


def rebuild(
    sock: socket.socket, image: Image, target: FourTuple, peer_number: int, steering: Steering | None = None
) -> None:
    """Make the socket the connection of the image at `target`, with all queues, its send window closed.

    `peer_number`: the peer's `read_number`; what is before it is not sent again. When `target` is the image's own
    four-tuple, this puts the socket back. Can be repeated from any state that it was interrupted in, as long as the
    four-tuple is locked.

    Raises Refused (PEER_DISAGREES before the socket is touched; those of `Placing.place`) and OSError. Rebuild it at
    the image's own four-tuple then.
    """
    pending = image.unacknowledged[image.skipped(peer_number) :]
    repair.enter(sock)
    repair.disconnect(sock)
    binding.restore(sock, image.settings)
    _restore_buffers(sock, image.buffers)
    _sign_for(sock, image, target)

    def connect() -> None:
        repair.set_sequence(sock, repair.RECEIVE_QUEUE, image.receive_next - len(image.received))
        repair.set_sequence(sock, repair.SEND_QUEUE, peer_number)
        repair.choose_queue(sock, repair.NO_QUEUE)
        repair.limit_segments(sock, _first_segment_limit(image))
        sock.connect(binding.socket_address(image.family, target.remote, target.remote_port))
        repair.limit_segments(sock, 0)

    def take_detour() -> None:
        try:
            detour.lead(sock, target.local)
        except OSError as error:
            raise Refused(Reason.SOURCE, f"{target.local} cannot be forced: {error.strerror}") from error
        # Setting the mark back makes the socket forget the way to its own address.
        repair.set_unsigned(sock, socket.SOL_SOCKET, socket.SO_MARK, image.settings.mark ^ 1)

    placing = Placing(sock, target, image.settings, steering or Steering(), connect, take_detour)
    placing.place(whatever_it_takes=target == image.addresses)
    repair.set_agreed(
        sock,
        segment_limit=image.segment_limit,
        selective_acks=image.selective_acks,
        timestamps=image.timestamps,
        send_scale=image.send_scale,
        receive_scale=image.receive_scale,
    )
    _refill(sock, image)
    repair.set_window(sock, _closed(image))
    _restore_options(sock, image)
    repair.leave(sock, image.settings.reuse_address)
    _queue(sock, image, pending)
    if image.reading_ended:
        sock.shutdown(socket.SHUT_RD)
    if image.fin_sent:
        sock.shutdown(socket.SHUT_WR)


def let_go(sock: socket.socket, image: Image) -> None:
    """Open the send window as far as the peer had offered, and send. Both hosts have rebuilt; the tuple is open.

    Can be repeated. Does nothing bad if the peer's packets have opened the window already. Raises OSError.
    """
    repair.enter(sock)
    now = repair.window(sock)
    if not now.send:
        now = replace(now, send=_still_offered(sock, image))
        repair.set_window(sock, now)
    # A corked segment is to stay, so nothing is pushed; the answer to a probe brings the full ones before it on their
    # way. Not when something has come in since: the peer discards a probe, and the acknowledgment in it would be lost.
    push = not image.cork or image.fin_sent
    untouched = repair.unread(sock) == len(image.received)
    probe = untouched and bool(repair.unconfirmed(sock)) and (not push or not now.send)
    repair.leave(sock, image.settings.reuse_address, probe=probe)
    if push:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not image.no_delay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)


def _still_offered(sock: socket.socket, image: Image) -> int:
    """What is left of the window that the peer had offered, in octets."""
    unacknowledged = image.write_next - max(0, repair.unconfirmed(sock) - image.fin_sent)
    used = (unacknowledged - image.send_unacknowledged) & SEQUENCE_MASK
    return max(0, image.window.send - used)  # a probe of a closed window is one octet more than was offered


def _first_segment_limit(image: Image) -> int:
    """In octets: what connecting computes the segment size from, before it knows how small the peer's window is.

    A segment that is larger than the window would wait for the timer that probes it. The kernel looks at half of the
    largest window, and again once a larger one is offered. Source: tcp_bound_to_half_wnd() in include/net/tcp.h.
    """
    largest = image.window.send_largest
    bound = largest // 2 if largest > _DEFAULT_SEGMENT else largest
    return min(image.segment_limit, bound or image.segment_limit)


def _closed(image: Image) -> Window:
    """The image's window without room to send; any segment of the peer may open it.

    The room to receive ends where it did, but counts as announced now: the peer knows what has been received, and
    only so is its first segment's timestamp taken over and a window probe answered (`rcv_wup` in tcp_input.c).
    """
    edge = image.window.receive_update + image.window.receive
    return Window(
        send_update=(image.receive_next - 1) & SEQUENCE_MASK,
        send=0,
        send_largest=image.window.send_largest,
        receive=(edge - image.receive_next) & SEQUENCE_MASK,
        receive_update=image.receive_next,
    )


def _sign_for(sock: socket.socket, image: Image, target: FourTuple) -> None:
    """TCP-MD5 keys for the peer's new address, beside those for the old one."""
    if target.remote == image.addresses.remote:
        return
    if any(key.covers(target.remote) for key in image.keys):
        return
    for key in image.keys:
        if key.covers(image.addresses.remote):
            add_key(sock, image.family, replace(key, address=target.remote, prefix_length=target.remote.max_prefixlen))
            return


def _refill(sock: socket.socket, image: Image) -> None:
    """The receive queue. Whatever size the program has set, what it held before fits in again."""
    if not image.received:
        return
    needed = 4 * len(image.received) + _BUFFER_ROOM
    if image.buffers.receive < needed:
        sock.setsockopt(socket.SOL_SOCKET, repair.SO_RCVBUFFORCE, needed)
    repair.choose_queue(sock, repair.RECEIVE_QUEUE)
    rest = memoryview(image.received)
    while rest:
        rest = rest[sock.send(rest[:_CHUNK], socket.MSG_DONTWAIT) :]
    repair.choose_queue(sock, repair.NO_QUEUE)
    _restore_buffers(sock, image.buffers)


def _queue(sock: socket.socket, image: Image, pending: bytes) -> None:
    """Into the send queue, out of repair mode. Whatever limits the program has set, what it had written fits in."""
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    rest = memoryview(pending)
    widened = False
    while rest:
        try:
            rest = rest[sock.send(rest, flags) :]
        except BlockingIOError:
            if widened:
                raise OSError(errno.ENOBUFS, f"no room in the kernel for {len(rest)} octets to send") from None
            widened = True
            repair.set_unsigned(sock, socket.IPPROTO_TCP, repair.TCP_NOTSENT_LOWAT, _NOT_SENT_UNLIMITED)
            sock.setsockopt(socket.SOL_SOCKET, repair.SO_SNDBUFFORCE, 4 * len(pending) + _BUFFER_ROOM)
    if widened:
        _restore_buffers(sock, image.buffers)


def _buffers(sock: socket.socket) -> Buffers:
    return Buffers(
        send=sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        receive=sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
        locks=sock.getsockopt(socket.SOL_SOCKET, repair.SO_BUF_LOCK),
        not_sent_low=repair.unsigned(sock, socket.IPPROTO_TCP, repair.TCP_NOTSENT_LOWAT),
    )


def _restore_buffers(sock: socket.socket, wanted: Buffers) -> None:
    found = _buffers(sock)
    # The kernel doubles what is set, so an odd size (it can come from its own tuning) ends one octet short.
    if found.send | 1 != wanted.send | 1:
        sock.setsockopt(socket.SOL_SOCKET, repair.SO_SNDBUFFORCE, wanted.send // 2)
    if found.receive | 1 != wanted.receive | 1:
        sock.setsockopt(socket.SOL_SOCKET, repair.SO_RCVBUFFORCE, wanted.receive // 2)
    if repair.unsigned(sock, socket.SOL_SOCKET, repair.SO_BUF_LOCK) != wanted.locks:
        sock.setsockopt(socket.SOL_SOCKET, repair.SO_BUF_LOCK, wanted.locks)
    if found.not_sent_low != wanted.not_sent_low:
        repair.set_unsigned(sock, socket.IPPROTO_TCP, repair.TCP_NOTSENT_LOWAT, wanted.not_sent_low)


def _restore_options(sock: socket.socket, image: Image) -> None:
    for option, value in image.kept:
        if value and repair.unsigned(sock, socket.IPPROTO_TCP, option) != value:
            repair.set_unsigned(sock, socket.IPPROTO_TCP, option, value)
    if dict(image.kept).get(socket.TCP_QUICKACK) == 0:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    if _congestion_control(sock) != image.congestion_control:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, image.congestion_control)
    for option, value in ((socket.TCP_NODELAY, image.no_delay), (socket.TCP_CORK, image.cork)):
        if sock.getsockopt(socket.IPPROTO_TCP, option) != value:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _congestion_control(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_NAME_SIZE).rstrip(b"\0")


def _events(sock: socket.socket) -> int:
    """What poll() says at once; POLLPRI for urgent data, POLLRDHUP for the end of reading."""
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLPRI | select.POLLRDHUP)
    return sum(events for _fd, events in poller.poll(0))

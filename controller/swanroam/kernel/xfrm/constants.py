"""Names and numbers of the XFRM netlink interface.

Source: include/uapi/linux/xfrm.h, include/uapi/linux/netlink.h. Values newer than a distribution's headers (SA_DIR,
MIGRATE_STATE, IPTFS) are listed because a running kernel may send them.
"""

from __future__ import annotations

import socket
from enum import IntEnum, IntFlag
from typing import Final, Self

NETLINK_XFRM: Final = 6

NLM_F_REQUEST: Final = 0x01
NLM_F_MULTI: Final = 0x02
NLM_F_ACK: Final = 0x04
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_OVERRUN: Final = 4

SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_DROP_MEMBERSHIP: Final = 2
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11
NLMSGERR_ATTR_MSG: Final = 1

NLA_TYPE_MASK: Final = 0x3FFF
"""The two top bits of an attribute's type are flags (nested, network byte order)."""

XFRM_INF: Final = 2**64 - 1
"""No limit, for the byte and packet limits of a lifetime."""

IPPROTO_ANY: Final = 0
IPPROTO_IPIP: Final = 4
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17
IPPROTO_IPV6: Final = 41
IPPROTO_ESP: Final = 50
IPPROTO_AH: Final = 51
IPPROTO_ICMPV6: Final = 58

UDP_ENCAP_ESPINUDP: Final = 2


class OpenIntEnum(IntEnum):
    """An enumeration that newer kernels may extend: an unknown value becomes a member named `UNKNOWN_n`.

    A dump must not fail because somebody else's object uses a mode that is younger than this program.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member


class Family(IntEnum):
    """Address family of a structure that holds addresses."""

    UNSPEC = socket.AF_UNSPEC
    """Only in the selector of a tunnel-mode SA that carries both families (XFRM_STATE_AF_UNSPEC)."""
    INET = socket.AF_INET
    INET6 = socket.AF_INET6


class MessageType(OpenIntEnum):
    """XFRM_MSG_*."""

    NEWSA = 0x10
    DELSA = 0x11
    GETSA = 0x12
    NEWPOLICY = 0x13
    DELPOLICY = 0x14
    GETPOLICY = 0x15
    ALLOCSPI = 0x16
    ACQUIRE = 0x17
    EXPIRE = 0x18
    UPDPOLICY = 0x19
    UPDSA = 0x1A
    POLEXPIRE = 0x1B
    FLUSHSA = 0x1C
    FLUSHPOLICY = 0x1D
    NEWAE = 0x1E
    GETAE = 0x1F
    REPORT = 0x20
    MIGRATE = 0x21
    NEWSADINFO = 0x22
    GETSADINFO = 0x23
    NEWSPDINFO = 0x24
    GETSPDINFO = 0x25
    MAPPING = 0x26
    SETDEFAULT = 0x27
    GETDEFAULT = 0x28
    MIGRATE_STATE = 0x29


class AttributeType(OpenIntEnum):
    """XFRMA_*."""

    UNSPEC = 0
    ALG_AUTH = 1
    ALG_CRYPT = 2
    ALG_COMP = 3
    ENCAP = 4
    TMPL = 5
    SA = 6
    POLICY = 7
    SEC_CTX = 8
    LTIME_VAL = 9
    REPLAY_VAL = 10
    REPLAY_THRESH = 11
    ETIMER_THRESH = 12
    SRCADDR = 13
    COADDR = 14
    LASTUSED = 15
    POLICY_TYPE = 16
    MIGRATE = 17
    ALG_AEAD = 18
    KMADDRESS = 19
    ALG_AUTH_TRUNC = 20
    MARK = 21
    TFCPAD = 22
    REPLAY_ESN_VAL = 23
    SA_EXTRA_FLAGS = 24
    PROTO = 25
    ADDRESS_FILTER = 26
    PAD = 27
    OFFLOAD_DEV = 28
    SET_MARK = 29
    SET_MARK_MASK = 30
    IF_ID = 31
    MTIMER_THRESH = 32
    SA_DIR = 33
    NAT_KEEPALIVE_INTERVAL = 34
    SA_PCPU = 35


class Group(IntEnum):
    """XFRMNLGRP_*: what a monitor can subscribe to. All need CAP_NET_ADMIN; SA delivers keys."""

    ACQUIRE = 1
    EXPIRE = 2
    SA = 3
    POLICY = 4
    AEVENTS = 5
    REPORT = 6
    MIGRATE = 7
    MAPPING = 8


class Direction(OpenIntEnum):
    """Direction of a policy."""

    IN = 0
    OUT = 1
    FWD = 2
    SOCKET_IN = 3
    """A socket's own policy (IP_XFRM_POLICY), as IKE daemons set it; dumps list it, it cannot be written here."""
    SOCKET_OUT = 4


class Action(OpenIntEnum):
    """What a policy does with a packet that it selects. ALLOW without templates lets it pass in clear."""

    ALLOW = 0
    BLOCK = 1


class PolicyType(OpenIntEnum):
    """XFRM_POLICY_TYPE_*."""

    MAIN = 0
    SUB = 1


class PolicyFlags(IntFlag):
    """XFRM_POLICY_* flags."""

    NONE = 0
    LOCALOK = 1
    ICMP = 2


class Mode(OpenIntEnum):
    """XFRM_MODE_*."""

    TRANSPORT = 0
    TUNNEL = 1
    ROUTEOPTIMIZATION = 2
    IN_TRIGGER = 3
    BEET = 4
    IPTFS = 5


class StateFlags(IntFlag):
    """XFRM_STATE_* flags of an SA."""

    NONE = 0
    NOECN = 1
    DECAP_DSCP = 2
    NOPMTUDISC = 4
    WILDRECV = 8
    ICMP = 16
    AF_UNSPEC = 32
    ALIGN4 = 64
    ESN = 128


class ExtraFlags(IntFlag):
    """XFRM_SA_XFLAG_* flags of an SA."""

    NONE = 0
    DONT_ENCAP_DSCP = 1
    OSEQ_MAY_WRAP = 2


class SaDirection(OpenIntEnum):
    """XFRMA_SA_DIR, Linux 6.10 and later. NONE is the SA that older kernels know, usable both ways."""

    NONE = 0
    IN = 1
    OUT = 2

"""XFRM_MSG_MIGRATE: what it looks like, whether this kernel has it, and its use as a doorbell for charon.

charon subscribes to the kernel's migration notices. One that carries XFRMA_KMADDRESS makes it move every IKE_SA that
has a CHILD_SA of the named reqid to the addresses in it, with the SAs, selectors and policies, consistently
(kernel_netlink_ipsec.c process_migrate, migrate_job.c). Migrating the real policies of transport mode instead would
leave their selectors on the old address. So the request is made on a policy of our own, between addresses of a
documentation prefix (RFC 5737, RFC 3849) that no packet has: the kernel finds a template of that mode and reqid, finds
no SA between those addresses, moves nothing, and sends the notice.

Source: xfrm_do_migrate and build_migrate in net/xfrm/xfrm_user.c, xfrm_migrate in net/xfrm/xfrm_policy.c. Up to Linux
6.1 the policy is found by its selector, from 6.12 on by a flow lookup; ours is found both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Self

from swanroam.kernel.xfrm.codec import (
    ADDRESS,
    Attribute,
    IPAddress,
    Layout,
    decode_address,
    decode_family,
    encode_address,
    encode_attributes,
    family_of,
)
from swanroam.kernel.xfrm.constants import IPPROTO_ESP, AttributeType, Direction, MessageType, Mode
from swanroam.kernel.xfrm.errors import XfrmDecodeError, XfrmNotFound
from swanroam.kernel.xfrm.policies import OWNER, delete_request, update_request
from swanroam.kernel.xfrm.policy import USERPOLICY_ID, Policy, Template
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import Request, XfrmSocket

USER_MIGRATE: Final = Layout(
    "xfrm_user_migrate",
    old_daddr=ADDRESS,
    old_saddr=ADDRESS,
    new_daddr=ADDRESS,
    new_saddr=ADDRESS,
    proto="B",
    mode="B",
    reserved="H",
    reqid="I",
    old_family="H",
    new_family="H",
)
USER_KMADDRESS: Final = Layout("xfrm_user_kmaddress", local=ADDRESS, remote=ADDRESS, reserved="I", family="H", pad="2x")

_BELL_PRIORITY: Final = 1
"""Before everybody's: a flow lookup for the documentation addresses must end at our policy."""
_BELL_ADDRESSES: Final = {
    4: tuple(ip_address(f"192.0.2.{host}") for host in (1, 2, 3)),
    6: tuple(ip_address(f"2001:db8::{host}") for host in (1, 2, 3)),
}
"""Per IP version: old source, destination, new source."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One pair of endpoints that becomes another: an element of XFRMA_MIGRATE."""

    old_saddr: IPAddress
    old_daddr: IPAddress
    new_saddr: IPAddress
    new_daddr: IPAddress
    reqid: int
    mode: Mode = Mode.TRANSPORT
    proto: int = IPPROTO_ESP

    def encode(self) -> bytes:
        return USER_MIGRATE.pack(
            old_daddr=encode_address(self.old_daddr),
            old_saddr=encode_address(self.old_saddr),
            new_daddr=encode_address(self.new_daddr),
            new_saddr=encode_address(self.new_saddr),
            proto=self.proto,
            mode=self.mode,
            reqid=self.reqid,
            old_family=family_of(self.old_daddr),
            new_family=family_of(self.new_daddr),
        )

    @classmethod
    def decode(cls, data: bytes, offset: int = 0) -> Self:
        item = USER_MIGRATE.unpack(data, offset)
        old = decode_family(USER_MIGRATE.name, item["old_family"])
        new = decode_family(USER_MIGRATE.name, item["new_family"])
        return cls(
            decode_address(item["old_saddr"], old),
            decode_address(item["old_daddr"], old),
            decode_address(item["new_saddr"], new),
            decode_address(item["new_daddr"], new),
            item["reqid"],
            Mode(item["mode"]),
            item["proto"],
        )


def decode_migrations(data: bytes) -> tuple[Migration, ...]:
    """The array in XFRMA_MIGRATE: several in a request, one per attribute in a notice."""
    if len(data) % USER_MIGRATE.size:
        raise XfrmDecodeError("XFRMA_MIGRATE", f"{len(data)} octets are not a number of migrations")
    return tuple(Migration.decode(data, offset) for offset in range(0, len(data), USER_MIGRATE.size))


@dataclass(frozen=True, slots=True)
class KeyManagerAddress:
    """The addresses that the IKE daemon shall use from now on: XFRMA_KMADDRESS."""

    local: IPAddress
    remote: IPAddress

    def encode(self) -> bytes:
        return USER_KMADDRESS.pack(
            local=encode_address(self.local), remote=encode_address(self.remote), family=family_of(self.local)
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        item = USER_KMADDRESS.exactly(data)
        family = decode_family(USER_KMADDRESS.name, item["family"])
        return cls(decode_address(item["local"], family), decode_address(item["remote"], family))


def migrate_request(
    selector: Selector,
    direction: Direction,
    migrations: tuple[Migration, ...],
    key_manager: KeyManagerAddress | None = None,
) -> Request:
    """XFRM_MSG_MIGRATE for the policy with this selector and direction."""
    attributes = [Attribute(AttributeType.MIGRATE, b"".join(item.encode() for item in migrations))]
    if key_manager is not None:
        attributes.append(Attribute(AttributeType.KMADDRESS, key_manager.encode()))
    body = USERPOLICY_ID.pack(sel=selector.encode(), dir=direction) + encode_attributes(attributes)
    return Request(MessageType.MIGRATE, body, "migrate", selector)


async def ring_doorbell(
    xfrm: XfrmSocket, *, reqid: int, mode: Mode, local: IPAddress, remote: IPAddress, proto: int = IPPROTO_ESP
) -> None:
    """Tell charon that the IKE_SAs with a CHILD_SA of this reqid now run between `local` and `remote`.

    `mode` and `proto` are the CHILD_SA's, addresses as seen from this host, one bell per CHILD_SA. charon acts
    afterwards and says nothing: read its SAs until they are on the new addresses. All IKE_SAs that share the reqid
    move, and to port 500 without UDP encapsulation: not for peers behind NAT.

    The policy, the migration and the removal of the policy are one batch, which the kernel completes even if this
    process dies. Raises ValueError for reqid 0 or two families, XfrmUnsupported without CONFIG_XFRM_MIGRATE, XfrmError.
    """
    if reqid == 0:
        raise ValueError("reqid 0 names no CHILD_SA")
    if local.version != remote.version:
        raise ValueError(f"{local} and {remote} are not of one address family")
    policy, migration = _bell(reqid, mode, local.version, proto)
    bell = migrate_request(
        policy.selector, policy.direction, (migration,), KeyManagerAddress(local=local, remote=remote)
    )
    for error in await xfrm.batch([update_request(policy), bell, delete_request(policy)]):
        if error is not None:
            raise error


async def probe_migrate(xfrm: XfrmSocket) -> None:
    """Return if this kernel can migrate. Changes nothing: the policy asked for does not exist.

    Raises XfrmUnsupported without CONFIG_XFRM_MIGRATE, XfrmPermission without CAP_NET_ADMIN.
    """
    policy, migration = _bell(1, Mode.TRANSPORT, 4, IPPROTO_ESP)
    try:
        await xfrm.execute(migrate_request(policy.selector, policy.direction, (migration,)))
    except XfrmNotFound:
        return


def _bell(reqid: int, mode: Mode, version: int, proto: int) -> tuple[Policy, Migration]:
    """Our policy and the migration of its template."""
    old, peer, new = _BELL_ADDRESSES[version]
    template = Template(reqid, mode, proto, old, peer, family_of(old))
    policy = Policy(
        Selector.between(old, peer, user=OWNER), Direction.OUT, priority=_BELL_PRIORITY, templates=(template,)
    )
    return policy, Migration(old, peer, new, peer, reqid, mode, proto)

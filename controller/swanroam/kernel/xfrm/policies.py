"""The SPD: read it, change it, and keep the policies that swanroam owns as wanted.

Owned policies carry `OWNER` in their selector's `user`. The kernel compares it when it asks whether two policies are
the same one, and ignores it when it looks for the policy of a packet; so an owned policy stands beside one of charon's
that selects the very same packets, and deleting the one never hits the other.
Source: xfrm_add_policy, xfrm_get_policy, xfrm_dump_policy (net/xfrm/xfrm_user.c); xfrm_policy_insert,
xfrm_policy_bysel_ctx (net/xfrm/xfrm_policy.c).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final

from swanroam.kernel.xfrm.constants import IPPROTO_ANY, Action, Direction, MessageType
from swanroam.kernel.xfrm.errors import XfrmError, XfrmNotFound
from swanroam.kernel.xfrm.policy import Policy, PolicyKey, encode_policy_id
from swanroam.kernel.xfrm.socket import Request, XfrmSocket

OWNER: Final = 0x73776E72
"""selector.user of every policy that swanroam makes: the letters "swnr"."""


@dataclass(frozen=True, slots=True)
class PolicyChanges:
    """What `apply_owned` did. Empty when the kernel was as wanted already."""

    added: frozenset[Policy] = frozenset()
    updated: frozenset[Policy] = frozenset()
    deleted: frozenset[Policy] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.added or self.updated or self.deleted)


def effective(*policies: Iterable[Policy]) -> set[Policy]:
    """The kernel has one policy for a key: the one of higher precedence, which is the lower number."""
    by_key: dict[PolicyKey, Policy] = {}
    for policy in chain(*policies):
        known = by_key.setdefault(policy.key, policy)
        if policy.priority < known.priority:
            by_key[policy.key] = policy
    return set(by_key.values())


def add_request(policy: Policy) -> Request:
    return Request(MessageType.NEWPOLICY, policy.encode(), "add policy", policy)


def update_request(policy: Policy) -> Request:
    """Add the policy, or put it in the place of the one with its key in one step, packets never seeing neither."""
    return Request(MessageType.UPDPOLICY, policy.encode(), "set policy", policy)


def delete_request(policy: Policy) -> Request:
    return Request(MessageType.DELPOLICY, encode_policy_id(policy.key), "delete policy", policy)


async def dump_policies(xfrm: XfrmSocket) -> list[Policy]:
    """Every policy of the namespace, sockets' own included. Raises XfrmError."""
    replies = await xfrm.dump(Request(MessageType.GETPOLICY, b"", "list policies"))
    return [Policy.decode(message.payload) for message in replies]


async def get_policy(xfrm: XfrmSocket, key: PolicyKey) -> Policy:
    """The policy with this key. Raises XfrmNotFound."""
    request = Request(MessageType.GETPOLICY, encode_policy_id(key), "read policy", key.selector)
    (reply,) = await xfrm.ask(request)
    return Policy.decode(reply.payload)


async def add_policy(xfrm: XfrmSocket, policy: Policy) -> None:
    """Add a new policy. Raises XfrmExists when its key is taken."""
    await xfrm.execute(add_request(policy))


async def update_policy(xfrm: XfrmSocket, policy: Policy) -> None:
    """Add the policy or replace the one with its key. Raises XfrmError."""
    await xfrm.execute(update_request(policy))


async def delete_policy(xfrm: XfrmSocket, policy: Policy) -> None:
    """Delete the policy with this policy's key, whatever its priority and action. Raises XfrmNotFound."""
    await xfrm.execute(delete_request(policy))


async def find_owned(xfrm: XfrmSocket) -> set[Policy]:
    """Our policies, those of an earlier run included. Raises XfrmError."""
    return {
        policy
        for policy in await dump_policies(xfrm)
        if policy.selector.user == OWNER and policy.direction <= Direction.FWD
    }


async def apply_owned(xfrm: XfrmSocket, wanted: Collection[Policy]) -> PolicyChanges:
    """Make our policies exactly the wanted ones; others' are not touched.

    Order: wanted blocks, wanted allows, then what is no longer wanted, allows before blocks. So at no moment less is
    blocked than before and after. Each of the four is done as far as possible, and the next only if all of it was:
    nothing is allowed whose blocks could not be had, and no block goes before the allows. Repeat after an error.
    But incoming carrier packets and neighbor discovery are allowed before everything else: they may be on their way
    already, and a block that stands before its exception would drop them. That lets nothing out.
    Of wanted policies for the same packets (one key) only the first asked counts, and only that one is installed.

    Raises ValueError when `wanted` has a policy without our mark or two for one key and priority, XfrmError.
    """
    by_key = _by_key(wanted)
    found = {policy.key: policy for policy in await find_owned(xfrm)}
    changed = {policy for key, policy in by_key.items() if found.get(key) != policy}
    surplus = {policy for key, policy in found.items() if key not in by_key}

    for stage in _stages(changed):
        await _all(xfrm, map(update_request, stage))
    await _delete(xfrm, surplus)
    return PolicyChanges(
        frozenset(policy for policy in changed if policy.key not in found),
        frozenset(policy for policy in changed if policy.key in found),
        frozenset(surplus),
    )


async def clear_owned(xfrm: XfrmSocket) -> frozenset[Policy]:
    """Delete all of our policies and return them. Raises XfrmError."""
    return (await apply_owned(xfrm, ())).deleted


async def _delete(xfrm: XfrmSocket, policies: Iterable[Policy]) -> None:
    blocks, allows = _split(policies)
    await _all(xfrm, map(delete_request, allows), XfrmNotFound)
    await _all(xfrm, map(delete_request, blocks), XfrmNotFound)


async def _all(xfrm: XfrmSocket, requests: Iterable[Request], *harmless: type[XfrmError]) -> None:
    """Try all of them, then raise the first error that is not harmless."""
    for error in await xfrm.batch(list(requests)):
        if error is not None and not isinstance(error, harmless):
            raise error


def _stages(policies: Iterable[Policy]) -> tuple[list[Policy], list[Policy], list[Policy]]:
    """What is to be set, in this order."""
    blocks, allows = _split(policies)
    underway = [policy for policy in allows if _lets_in_what_is_underway(policy)]
    return underway, blocks, [policy for policy in allows if policy not in underway]


def _lets_in_what_is_underway(policy: Policy) -> bool:
    """It lets in packets of one protocol, without IPsec. What has a mark was inside the carrier, and has to wait."""
    unprotected = policy.action is Action.ALLOW and not policy.templates and not policy.mark
    return policy.direction is Direction.IN and unprotected and policy.selector.proto != IPPROTO_ANY


def _by_key(policies: Iterable[Policy]) -> dict[PolicyKey, Policy]:
    """The policies without those that another one hides: same packets, lower number."""
    result: dict[PolicyKey, Policy] = {}
    for policy in policies:
        if policy.selector.user != OWNER:
            raise ValueError(f"not a policy of ours (selector.user is not OWNER): {policy}")
        other = result.setdefault(policy.key, policy)
        if policy.priority < other.priority:
            result[policy.key] = policy
        elif policy.priority == other.priority and policy != other:
            raise ValueError(f"two wanted policies for one selector: {other}, and {policy}")
    return result


def _split(policies: Iterable[Policy]) -> tuple[list[Policy], list[Policy]]:
    """Blocks and allows."""
    blocks: list[Policy] = []
    allows: list[Policy] = []
    for policy in policies:
        (blocks if policy.action is Action.BLOCK else allows).append(policy)
    return blocks, allows

"""What of swanroam's is in the kernel: guards beside a running daemon, leftovers where none runs."""

from __future__ import annotations

from dataclasses import dataclass

from swanroam.daemon.translation import carrier_settings
from swanroam.doctor import remedies
from swanroam.doctor.view import View
from swanroam.kernel.carrier import CarrierPlane
from swanroam.kernel.findings import Finding, Severity, ok
from swanroam.kernel.inner import InnerPlane
from swanroam.kernel.rtnetlink import RouteSocket, RouteSocketError
from swanroam.kernel.xfrm.constants import Action, Direction
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.kernel.xfrm.guards import prefix_guard
from swanroam.kernel.xfrm.locks import find_locks
from swanroam.kernel.xfrm.policies import find_owned
from swanroam.kernel.xfrm.policy import Policy
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.protocol.host_state import Pair

_GUARDS, _LEFTOVERS = "guards", "leftovers"


@dataclass(frozen=True, slots=True)
class Found:
    """What is there of ours."""

    policies: frozenset[Policy] = frozenset()
    locks: int = 0
    devices: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    inner: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.policies or self.locks or self.devices or self.held or self.inner)

    def __str__(self) -> str:
        parts = []
        if self.held:
            parts.append(f"held addresses {', '.join(sorted(self.held))}")
        if self.devices:
            parts.append(f"devices {', '.join(sorted(self.devices))}")
        if self.inner:
            parts.append(f"inner addresses {', '.join(sorted(self.inner))}")
        if self.policies:
            parts.append(f"{len(self.policies)} guards and bypasses")
        if self.locks:
            parts.append(f"{self.locks} locks of connections")
        return "; ".join(parts)


async def check(view: View) -> list[Finding]:
    """Guards where a daemon runs, else leftovers."""
    check = _GUARDS if view.running else _LEFTOVERS
    if not view.privileged:
        return [Finding(check, Severity.UNSEEN, "IPsec policies can be read with CAP_NET_ADMIN only")]
    try:
        found = await _find(view)
    except (XfrmError, RouteSocketError) as error:
        return [Finding(check, Severity.WARNING, str(error), "what is in the kernel could not be looked at")]
    return guard_findings(view, found) if view.running else leftover_findings(view, found)


async def _find(view: View) -> Found:
    settings = carrier_settings(view.config)
    async with XfrmSocket() as xfrm, RouteSocket() as netlink:
        carriers = await CarrierPlane(netlink, settings).find()
        inner = await InnerPlane(netlink, settings).find()
        return Found(
            frozenset(await find_owned(xfrm)),
            len(await find_locks(xfrm)),
            carriers.devices,
            frozenset(map(str, carriers.held)),
            frozenset(map(str, inner.own)),
        )


def guard_findings(view: View, found: Found) -> list[Finding]:
    """Each pair of addresses of a managed peer is guarded, and so is the prefix of the inner addresses."""
    unguarded = [] if prefix_guard(view.config.control.prefix) <= found.policies else [str(view.config.control.prefix)]
    status = view.api.status or {"peers": []}
    managed = {peer["identity"] for peer in status["peers"] if peer["managed"]}
    unguarded += [
        f"{way.pair.local} - {way.pair.remote}"
        for way in view.ways
        if way.peer.identity in managed and not _is_guarded(way.pair, found.policies)
    ]
    if unguarded:
        return [
            Finding(
                _GUARDS,
                Severity.ERROR,
                f"nothing keeps packets of {', '.join(unguarded)} from leaving in clear when their SA is missing: "
                "somebody has removed the daemon's policies",
                "the daemon puts them back within 15 s; who flushes IPsec policies (ip xfrm policy flush)?",
            )
        ]
    return [ok(_GUARDS, f"{len(found.policies)} policies")]


def _is_guarded(pair: Pair, policies: frozenset[Policy]) -> bool:
    return any(
        policy.action is Action.BLOCK
        and policy.direction is Direction.OUT
        and pair.local in policy.selector.source
        and pair.remote in policy.selector.destination
        for policy in policies
    )


def leftover_findings(view: View, found: Found) -> list[Finding]:
    """A daemon that has nothing to keep takes everything with it."""
    if not found:
        return [ok(_LEFTOVERS, "nothing of swanroam's is in the kernel")]
    evidence = f"no daemon runs, and of an earlier one there are: {found}. Guards hold back what is not protected"
    return [
        Finding(
            _LEFTOVERS,
            Severity.WARNING,
            evidence,
            "or start the daemon, which takes it over; this ends connections that still use an old address",
            remedies.swanroam("cleanup", view.config_file),
        )
    ]

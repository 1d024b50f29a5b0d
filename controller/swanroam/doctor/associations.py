"""What charon has established with our peers: the IKE_SA, the control child, transport mode, and the kernel's side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swanroam.config import PeerSettings
from swanroam.doctor import remedies
from swanroam.doctor.view import View
from swanroam.ike.associations import ChildSa, IkeSa, Mode
from swanroam.ike.definitions import DefinitionError
from swanroam.ike.readback import read_back
from swanroam.kernel.findings import Finding, Severity, ok
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.kernel.xfrm.socket import XfrmSocket


async def check(view: View) -> list[Finding]:
    """All peers. Nothing when charon can't be asked, which `charon` tells."""
    if view.charon is None:
        return []
    found: list[Finding] = []
    for peer in view.config.peers:
        ike_sa = view.newest(peer)
        if ike_sa is None:
            found.append(_absent(view, peer))
        else:
            found += _of_ike_sa(view, peer, ike_sa)
    return [*found, *await _kernel(view)]


def _absent(view: View, peer: PeerSettings) -> Finding:
    evidence = f"charon has no IKE_SA with {peer.identity}"
    if not peer.moves.we_may or not _connects(view, peer):
        return Finding("IKE_SA", Severity.NOTE, f"{evidence}; it may connect when it likes")
    return Finding(
        "IKE_SA",
        Severity.WARNING,
        f"{evidence}, so nothing can move",
        command=remedies.initiate(view.config, peer.connection, _data_child(view, peer)),
    )


def _connects(view: View, peer: PeerSettings) -> bool:
    """Whether this host knows where to."""
    connection = view.connection(peer)
    return connection is None or any("%any" not in place and "/" not in place for place in connection.remote_addrs)


def _of_ike_sa(view: View, peer: PeerSettings, ike_sa: IkeSa) -> Iterator[Finding]:
    local, remote = ike_sa.local, ike_sa.remote
    yield ok("IKE_SA", f"{ike_sa.name}: {local.host} - {remote.host}, {remote.identity}")
    if local.identity != view.config.identity:
        yield Finding(
            "identity",
            Severity.ERROR,
            f"towards {peer.identity} charon says that we are {local.identity}, and `identity` is "
            f"{view.config.identity}: the peer looks for us under the wrong inner address",
            "mend `identity` in swanroam.yaml, or `id` in the connection",
        )
    if ike_sa.nat_any:
        yield Finding(
            "NAT",
            Severity.ERROR,
            f"charon has found a NAT between {local.host} and {remote.host}: a carrier does not pass it",
            "swanroam needs addresses that both hosts see as they are",
        )
    if ike_sa.child(view.config.control.child) is not None or _configured(view, peer, view.config.control.child):
        yield _control(view, peer, ike_sa)  # otherwise `connections` tells why there is none
    yield from _modes(view, peer, ike_sa)


def _control(view: View, peer: PeerSettings, ike_sa: IkeSa) -> Finding:
    name = view.config.control.child
    check = "control channel"
    child = ike_sa.child(name)
    if child is None:
        return Finding(
            check,
            Severity.ERROR,
            f"the IKE_SA with {peer.identity} has no CHILD_SA {name}: the controllers cannot talk",
            "if charon answers TS_UNACCEPTABLE, compare `swanroam check-config` on both hosts",
            remedies.initiate(view.config, peer.connection, name),
        )
    for side, selectors, address in (
        ("ours", child.local_ts, view.config.control.address),
        ("its", child.remote_ts, peer.control_address),
    ):
        if not any(selector.is_host(address) for selector in selectors):
            said = ", ".join(map(str, selectors))
            return Finding(
                check,
                Severity.ERROR,
                f"CHILD_SA {name} with {peer.identity} is for {said}, and {side} is {address}: datagrams do not get "
                "into it, or the sender is not proven",
                "compare `swanroam check-config` on both hosts first",
                remedies.renew(view.config, peer.connection, name, child.unique_id),
            )
    return ok(check, f"CHILD_SA {name} with {peer.identity}: {view.config.control.address} - {peer.control_address}")


def _modes(view: View, peer: PeerSettings, ike_sa: IkeSa) -> Iterator[Finding]:
    """Is the pair of addresses covered, as configured? A responder may fall back to tunnel mode without a word."""
    check = "CHILD_SA"
    installed = [child for child in ike_sa.children if child.is_usable and child.name != view.config.control.child]
    covering = [child for child in installed if _covers(child, ike_sa)]
    for child in installed:
        wanted = _configured_mode(view, peer, child.name)
        if wanted is not None and wanted is not child.mode:
            yield Finding(
                check,
                Severity.ERROR,
                f"CHILD_SA {child.name} with {peer.identity} is in {child.mode.value.lower()} mode instead of "
                f"{wanted.value.lower()}: the peer did not agree",
                f"set mode = {wanted.value.lower()} for it on the peer first",
                remedies.renew(view.config, peer.connection, child.name, child.unique_id),
            )
    if covering:
        names = ", ".join(child.name for child in covering)
        yield ok(check, f"{names} protects {ike_sa.local.host} - {ike_sa.remote.host}")
    elif not any(child.mode is not Mode.TRANSPORT for child in installed):
        yield Finding(
            check,
            Severity.WARNING,
            f"no CHILD_SA in transport mode covers {ike_sa.local.host} - {ike_sa.remote.host} ({peer.identity}): "
            "connections between them are not protected, and do not move",
            "initiate the data child; its selectors must be dynamic",
            remedies.initiate(view.config, peer.connection, _data_child(view, peer)),
        )


def _covers(child: ChildSa, ike_sa: IkeSa) -> bool:
    local, remote = ike_sa.local.host, ike_sa.remote.host
    if child.mode is not Mode.TRANSPORT or local is None or remote is None:
        return False
    return any(ts.is_host(local) for ts in child.local_ts) and any(ts.is_host(remote) for ts in child.remote_ts)


def _configured(view: View, peer: PeerSettings, child: str) -> bool:
    """Whether there could be such a CHILD_SA, as far as that is known."""
    return view.connection(peer) is None or _configured_mode(view, peer, child) is not None


def _configured_mode(view: View, peer: PeerSettings, child: str) -> Mode | None:
    connection = view.connection(peer)
    try:
        definition = None if connection is None else connection.children.get(child)
    except DefinitionError:
        return None
    return None if definition is None else definition.mode


def _data_child(view: View, peer: PeerSettings) -> str:
    connection = view.connection(peer)
    try:
        children = {} if connection is None else connection.children
    except DefinitionError:
        children = {}
    control = view.config.control.child
    transport = (name for name, child in children.items() if child.mode is Mode.TRANSPORT and name != control)
    return next(transport, control)


async def _kernel(view: View) -> list[Finding]:
    """Does the kernel have what charon says? Its SAs can be read with CAP_NET_ADMIN only."""
    check = "kernel and charon"
    if not view.privileged or not view.ike_sas:
        return []

    async def as_read() -> Sequence[IkeSa]:
        return view.ike_sas

    try:
        async with XfrmSocket() as xfrm:
            _, contradictions = await read_back(xfrm, as_read, [peer.identity for peer in view.config.peers])
    except XfrmError as error:
        return [Finding(check, Severity.WARNING, str(error), "the kernel's SAs could not be compared with charon's")]
    names = {child.name for ike_sa in view.ike_sas for child in ike_sa.children if ike_sa.unique_id in contradictions}
    return [
        Finding(
            check,
            Severity.ERROR,
            problem,
            "who has changed what is charon's? What it should protect is held back until it is in place again",
            " && ".join(remedies.swanctl(view.config, "--rekey", "--child", name) for name in sorted(names)),
        )
        for problems in contradictions.values()
        for problem in problems
    ] or [ok(check, "agree")]

"""What associations for a new address pair must look like: in charon before they are relied on, and in the kernel."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from swanroam.ike.associations import ChildSa, IkeSa, Mark, Mode
from swanroam.ike.definitions import ChildDefinition
from swanroam.ike.selectors import IPAddress, TrafficSelector


class Direction(Enum):
    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class ExpectedState:
    """A security association that the kernel must hold, from what charon says of a CHILD_SA."""

    child: str
    direction: Direction
    spi: int
    source: IPAddress
    destination: IPAddress
    reqid: int
    mode: Mode
    protocol: str
    source_ts: tuple[TrafficSelector, ...]
    destination_ts: tuple[TrafficSelector, ...]
    if_id: int
    mark: Mark | None
    encapsulation_ports: tuple[int, int] | None
    """UDP source and destination port when ESP travels in UDP."""


def expected_states(ike_sa: IkeSa) -> tuple[ExpectedState, ...]:
    """Both directions of every usable CHILD_SA. Replaced ones, whose inbound half lives on for seconds, are not
    among them."""
    states = []
    for child in ike_sa.children:
        local, remote = ike_sa.local, ike_sa.remote
        if not child.is_usable or local.host is None or remote.host is None:
            continue
        udp = child.udp_encapsulation and local.port is not None and remote.port is not None
        if child.spi_in is not None:
            states.append(
                ExpectedState(
                    child=child.name,
                    direction=Direction.IN,
                    spi=child.spi_in,
                    source=remote.host,
                    destination=local.host,
                    reqid=child.reqid,
                    mode=child.mode,
                    protocol=child.protocol,
                    source_ts=child.remote_ts,
                    destination_ts=child.local_ts,
                    if_id=child.if_id_in,
                    mark=child.mark_in,
                    encapsulation_ports=(remote.port or 0, local.port or 0) if udp else None,
                )
            )
        if child.spi_out is not None:
            states.append(
                ExpectedState(
                    child=child.name,
                    direction=Direction.OUT,
                    spi=child.spi_out,
                    source=local.host,
                    destination=remote.host,
                    reqid=child.reqid,
                    mode=child.mode,
                    protocol=child.protocol,
                    source_ts=child.local_ts,
                    destination_ts=child.remote_ts,
                    if_id=child.if_id_out,
                    mark=child.mark_out,
                    encapsulation_ports=(local.port or 0, remote.port or 0) if udp else None,
                )
            )
    return tuple(states)


def shortcomings(
    ike_sa: IkeSa, wanted: Iterable[str], definitions: Mapping[str, ChildDefinition], others: Iterable[IkeSa]
) -> list[str]:
    """What keeps an IKE_SA from taking over from `others`: sentences, none if nothing.

    Every wanted CHILD_SA must be there, in the mode that was configured (a responder may fall back to tunnel
    mode without a word), with the selectors that the same CHILD_SA has in the newest of `others`, hosts replaced.
    """
    found = []
    for name in wanted:
        child = ike_sa.child(name)
        if child is None:
            found.append(
                f"CHILD_SA {name} is not in IKE_SA #{ike_sa.unique_id} with the others "
                "(charon.reuse_ikesa in strongswan.conf must be yes)"
            )
            continue
        mode = definitions[name].mode
        if child.mode is not mode:
            found.append(
                f"CHILD_SA {name} came up in {child.mode.value} mode instead of {mode.value}: "
                f"set mode = {mode.value.lower()} for it on the peer"
            )
            continue
        found += _selector_shortcomings(ike_sa, child, mode, others)
    return found


def _selector_shortcomings(ike_sa: IkeSa, child: ChildSa, mode: Mode, others: Iterable[IkeSa]) -> list[str]:
    local, remote = ike_sa.local.host, ike_sa.remote.host
    assert local is not None
    assert remote is not None
    selectors = ((child.local_ts, local), (child.remote_ts, remote))
    if mode is Mode.TRANSPORT and not all(ts.is_host(host) for side, host in selectors for ts in side):
        return [
            f"CHILD_SA {child.name} is for {_shown(child)}, not for {local} === {remote}: its selectors must be dynamic"
        ]
    older = [(other, twin) for other in others if (twin := other.child(child.name)) is not None]
    if not older:
        return []
    other, twin = max(older, key=lambda item: item[1].unique_id)
    if other.local.host is None or other.remote.host is None:
        return []
    expected_local = {ts.moved(other.local.host, local) for ts in twin.local_ts}
    expected_remote = {ts.moved(other.remote.host, remote) for ts in twin.remote_ts}
    if set(child.local_ts) == expected_local and set(child.remote_ts) == expected_remote:
        return []
    return [
        f"CHILD_SA {child.name} is for {_shown(child)}, but for {_shown(twin)} in IKE_SA #{other.unique_id}: "
        "the peer answered with another of its children; give them distinct selectors"
    ]


def _shown(child: ChildSa) -> str:
    return f"{' '.join(map(str, child.local_ts))} === {' '.join(map(str, child.remote_ts))}"

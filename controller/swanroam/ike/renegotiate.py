"""Make before break: security filters for a new address pair from an IKE_SA of their own, beside the old one.

A clone of the administrator's connection is loaded, bound to the new pair, and its children are initiated. The
old IKE_SA and its CHILD_SAs stay as they are until `release`. Seen on charon 5.9.8:

- charon puts an initiated child into an IKE_SA of equal configuration, so all children of one clone share one
  IKE_SA, and never that of the original, whose addresses differ (ike_sa_manager.c, `checkout_by_config`).
  Within it a child that exists already is refused as a duplicate; children of the same names in another IKE_SA
  are none of its business.
- `swanctl --load-conns` unloads clones, because they are not in the administrator's files. Their IKE_SAs live
  on and rekey.
- The kernel has one policy for CHILD_SAs of equal selectors, that of the CHILD_SA installed last. While two
  IKE_SAs of different address pairs each have such a child (the control child), a rekey of the older one makes
  it the last. The hosts may then disagree about the tunnel's end points, and nothing passes. So the older is
  ended early: `supersede`.
- An IKE rekey gives an IKE_SA a new identifier.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from weakref import WeakValueDictionary

from swanroam.ike.associations import ChildSa, IkeSa, IkeState, list_ike_sas
from swanroam.ike.clones import clone_name, clone_pair, is_of, original_name
from swanroam.ike.definitions import ConnectionDefinition, DefinitionsProvider
from swanroam.ike.expectations import shortcomings
from swanroam.ike.messages import IkeError, ViciCommandFailedError
from swanroam.ike.selectors import IPAddress
from swanroam.ike.vici import ViciClient

NEGOTIATIONS = 4
"""How many commands may wait for a peer at a time: each holds one of charon's worker threads (16 by default)."""
ANSWER_MARGIN = 5.0
"""Seconds that charon gets to answer after the time limit that it was given."""
REMEMBERED = 256
"""How many released IKE_SAs are remembered, so that their end is not taken for the peer's doing."""
_ENDING = (IkeState.DELETING, IkeState.DESTROYING)
POLL = 0.05
"""Seconds between looks at an IKE_SA that is ending."""


class FilterError(IkeError):
    """Security filters could not be made, moved or removed."""


class PeerReplacedError(FilterError):
    """The new IKE_SA is there, but the peer has ended an old one for it: what stayed there is unprotected."""

    def __init__(self, message: str, established: IkeSa) -> None:
        super().__init__(message)
        self.established = established


_CAUSES = (
    (
        "AUTHENTICATION_FAILED",
        "the peer refused: its credentials or `remote` identity do not fit ours, or its connection has unique = keep "
        "(set unique = no or never there, or use method migrate)",
    ),
    ("no shared key found", "charon has no pre-shared key for the peer: check the secrets, `swanctl --load-creds`"),
    ("no private key found", "charon has no private key for our certificate: check it, `swanctl --load-creds`"),
    ("NO_PROPOSAL_CHOSEN", "the peer accepts none of our proposals: compare proposals and esp_proposals on both hosts"),
    (
        "TS_UNACCEPTABLE",
        "the peer has no child with these selectors for the new addresses: its remote_ts must be dynamic, and both "
        "hosts need the control child",
    ),
    ("INVALID_KE_PAYLOAD", "the hosts do not agree on a Diffie-Hellman group: compare proposals on both hosts"),
    ("config not found", "charon dropped the connection meanwhile, perhaps by `swanctl --load-conns`: try again"),
)
"""What charon's log says, and what it means for the administrator."""


class Renegotiate:
    """The filter method `renegotiate`. Every operation may be repeated; each looks at charon's present state first.

    `definitions` gives the administrator's connections; `time_limit` is how many seconds a peer gets for each
    CHILD_SA and for the end of an association. Raises FilterError and the package's other IkeErrors.
    """

    def __init__(self, client: ViciClient, definitions: DefinitionsProvider, *, time_limit: float = 10.0) -> None:
        self._client = client
        self._definitions = definitions
        self._time_limit = time_limit
        self._turns = asyncio.Semaphore(NEGOTIATIONS)
        self._locks: WeakValueDictionary[tuple[object, ...], asyncio.Lock] = WeakValueDictionary()
        self._released: deque[int] = deque(maxlen=REMEMBERED)

    async def find(self, connection: str, identity: str) -> tuple[IkeSa, ...]:
        """Usable IKE_SAs with this peer that were made by the connection or its clones.

        Tell them apart by their addresses: identifiers do not follow age, since a rekey gives a new one.
        """
        return _of_peer(await self._list(), connection, identity)

    async def establish(
        self, connection: str, identity: str, local: IPAddress, remote: IPAddress, children: Collection[str]
    ) -> IkeSa:
        """An IKE_SA with this peer for exactly this address pair, with all these children as they must be.

        One that exists is returned, whoever made it; otherwise it is made, and in case of failure removed
        again. `supersede` should follow as soon as both hosts have taken the pair for current.

        After a return to an earlier address the IKE_SA of the administrator's connection may stand there without the
        children that were superseded: it is completed. Only when that fails there are two for the pair afterwards:
        release both with it. Raises PeerReplacedError, FilterError, DefinitionError, ViciError.
        """
        definition = (await self._definitions()).connection(connection)
        if not definition.accepts_identity(identity):
            said = ", ".join(definition.remote_ids)
            raise FilterError(f"connection {connection} is for {said}, not for {identity}: correct the peer's entry")
        name = clone_name(connection, local, remote)
        async with self._lock_of(connection, local, remote):
            before = await self._list()
            ours = _of_peer(before, connection, identity)
            wanted = [child for child in definition.children if child in children]
            for ike_sa in reversed(ours):
                others = [other for other in ours if not other.connects(local, remote)]
                covers = set(wanted) == set(children) and ike_sa.connects(local, remote)
                if covers and not shortcomings(ike_sa, wanted, definition.children, others):
                    return ike_sa
            if _may_be_completed(before, connection, identity, local, remote):
                with suppress(FilterError):
                    return await self._complete(definition, definition, identity, wanted, ours)
            clone = definition.bound_to(
                name=name,
                local=local,
                remote=remote,
                children=frozenset(children),
                local_id=ours[-1].local.identity if ours else None,
                remote_id=identity,
            )
            await self._clear_the_way(before, name, local, remote)
            try:
                ike_sa = await self._negotiate(definition, clone, identity, wanted, ours)
            except IkeError:
                # One that was in use before stays: it has connections to carry. The first error is the one to tell.
                if not any(ike_sa.name == name for ike_sa in ours):
                    with suppress(IkeError):
                        await self._undo(name)
                raise
            await self._check_survivors(connection, identity, ours, ike_sa)
            return ike_sa

    async def supersede(self, ike_sa: IkeSa, wanted: Callable[[], bool] = lambda: True) -> tuple[ChildSa, ...]:
        """End CHILD_SAs of other address pairs that share selectors, and so the kernel's policies, with `ike_sa`'s.

        These are the tunnel-mode children between fixed addresses; transport-mode children differ by their
        addresses and stay. For an address pair that both hosts take for current: nothing more is ended once `wanted`
        is false, or the next pair would lose what it has just been given. Returns what was ended.

        Last, a second IKE_SA for the pair of `ike_sa` is ended, if the peer has made one at the same moment.
        """
        connection = original_name(ike_sa.name)
        usable = [child for child in ike_sa.children if child.is_usable]
        ended: list[ChildSa] = []
        for other in await self.find(connection, ike_sa.remote.identity):
            if other.hosts == ike_sa.hosts:
                continue
            for child in other.children:
                if not child.is_usable or not any(child.same_selectors(newer) for newer in usable):
                    continue
                async with self._lock_of(connection, other.local.host, other.remote.host):
                    if not wanted():
                        return tuple(ended)
                    await self.end_child(other, child)
                ended.append(child)
        if wanted():
            await self.end_doubles(ike_sa, wanted)
        return tuple(ended)

    async def end_doubles(self, ike_sa: IkeSa, wanted: Callable[[], bool] = lambda: True) -> None:
        """End all IKE_SAs but one that both hosts have made for the address pair of `ike_sa` at the same moment.

        Either host keeps that of the lowest initiator's SPI, so neither ends what the other keeps. All its children
        must be in each; those of one initiator only are none of ours (reauthentication makes two for a moment).
        """
        names = {child.name for child in ike_sa.children if child.is_usable}
        doubles = [
            other
            for other in await self.find(original_name(ike_sa.name), ike_sa.remote.identity)
            if other.hosts == ike_sa.hosts and names <= {child.name for child in other.children if child.is_usable}
        ]
        if len({double.initiator for double in doubles}) < 2:
            return
        for double in sorted(doubles, key=lambda double: double.initiator_spi)[1:]:
            if wanted():
                await self.release(double.unique_id)

    async def release(self, ike_unique_id: int) -> None:
        """End an IKE_SA with its children: with the peer's consent, or without it after the time limit.

        Returns when it is gone, also if there was none. IKE rekeys change the identifier: take it from `find`
        just before.
        """
        self._released.append(ike_unique_id)
        message = {"ike-id": str(ike_unique_id), "force": "yes", "timeout": self._milliseconds}
        # Refused: there is none, or the peer did not answer and charon has given up. Both will show.
        with suppress(ViciCommandFailedError):
            await self._wait_for_peer("terminate", message)
        deadline = asyncio.get_running_loop().time() + ANSWER_MARGIN
        while left := await list_ike_sas(self._client, ike_unique_id=ike_unique_id, noblock=False):
            if asyncio.get_running_loop().time() > deadline:
                raise FilterError(
                    f"charon does not end IKE_SA #{ike_unique_id} ({left[0].name}, {left[0].state.value}): "
                    f"try `swanctl --terminate --ike-id {ike_unique_id} --force`"
                )
            await asyncio.sleep(POLL)

    async def unload(self, connection: str, local: IPAddress, remote: IPAddress) -> bool:
        """Unload the clone for an address pair unless an IKE_SA uses it. Returns whether it is not loaded any more.

        One that is ending, perhaps at the peer's wish, has no use for it. Who is just making one has. The
        administrator's own connection is never touched.
        """
        name = clone_name(connection, local, remote)
        if self._lock_of(connection, local, remote).locked():
            return False
        async with self._lock_of(connection, local, remote):
            if any(ike_sa.name == name and ike_sa.state not in _ENDING for ike_sa in await self._list()):
                return False
            await self._unload(name)
            return True

    async def unload_unused(self, connection: str) -> tuple[tuple[IPAddress, IPAddress], ...]:
        """Unload every clone of a connection, of an earlier run too, that no IKE_SA uses. Returns their pairs."""
        loaded = (await self._client.request("get-conns")).get("conns", [])
        assert isinstance(loaded, list)
        pairs = [pair for name in loaded if (pair := clone_pair(connection, name)) is not None]
        return tuple([pair for pair in pairs if await self.unload(connection, *pair)])

    def _lock_of(self, connection: str, local: IPAddress | None, remote: IPAddress | None) -> asyncio.Lock:
        """What is done for one address pair is done one at a time."""
        return self._locks.setdefault((connection, local, remote), asyncio.Lock())

    async def _list(self) -> tuple[IkeSa, ...]:
        # Without noblock: what is not in the list must really not be there.
        return await list_ike_sas(self._client, noblock=False)

    async def _clear_the_way(self, present: Sequence[IkeSa], name: str, local: IPAddress, remote: IPAddress) -> None:
        """Remove what an interrupted attempt left: charon would queue new children behind its retransmissions."""
        for ike_sa in present:
            if ike_sa.name != name:
                continue
            if ike_sa.state in (IkeState.CREATED, IkeState.CONNECTING):
                await self.release(ike_sa.unique_id)
            elif ike_sa.is_usable and not ike_sa.connects(local, remote):
                raise FilterError(
                    f"charon itself has moved IKE_SA #{ike_sa.unique_id} ({name}) to {ike_sa.local.host} === "
                    f"{ike_sa.remote.host}: set charon.plugins.kernel-netlink.roam_events = no and release it"
                )

    async def _negotiate(
        self,
        definition: ConnectionDefinition,
        clone: ConnectionDefinition,
        identity: str,
        wanted: Sequence[str],
        others: Sequence[IkeSa],
    ) -> IkeSa:
        """Load the clone, initiate what is missing, and read back what came of it."""
        await self._client.request("load-conn", {clone.name: clone.message})
        return await self._complete(definition, clone, identity, wanted, others)

    async def _complete(
        self,
        definition: ConnectionDefinition,
        loaded: ConnectionDefinition,
        identity: str,
        wanted: Sequence[str],
        others: Sequence[IkeSa],
    ) -> IkeSa:
        """Initiate what is missing of a connection that charon has, and read back what came of it."""
        ike_sa = await self._newest(loaded.name)
        for child in wanted:
            if ike_sa is None or ike_sa.child(child) is None:
                await self._initiate(loaded, child)
                ike_sa = await self._newest(loaded.name)
        if ike_sa is None:
            raise FilterError(f"IKE_SA {loaded.name} ended as soon as it was established; charon's log tells why")
        if ike_sa.remote.identity != identity:
            raise FilterError(f"{ike_sa.remote.host} is {ike_sa.remote.identity}, not {identity}: set `id` in `remote`")
        elsewhere = [other for other in others if other.hosts != ike_sa.hosts]
        if found := shortcomings(ike_sa, wanted, definition.children, elsewhere):
            raise FilterError(f"IKE_SA {loaded.name} is not what was asked for: {'; '.join(found)}")
        return ike_sa

    async def _initiate(self, loaded: ConnectionDefinition, child: str) -> None:
        message = {"ike": loaded.name, "child": child, "timeout": self._milliseconds}
        try:
            await self._wait_for_peer("initiate", message, event="control-log")
        except ViciCommandFailedError as error:
            lines = [error.errmsg, *(str(event.get("msg", "")) for event in error.events)]
            raise FilterError(
                f"CHILD_SA {child} of {loaded.name} was not established: {_explain(lines, loaded)}"
            ) from error

    async def _newest(self, name: str) -> IkeSa | None:
        usable = [ike_sa for ike_sa in await self._list() if ike_sa.name == name and ike_sa.is_usable]
        return max(usable, key=lambda ike_sa: ike_sa.unique_id, default=None)

    async def _check_survivors(
        self, connection: str, identity: str, before: Sequence[IkeSa], established: IkeSa
    ) -> None:
        """The peer must not have ended the old IKE_SAs for the new one. (Rekeyed ones have other identifiers.)"""
        after = await self.find(connection, identity)
        gone = [
            old
            for old in before
            if old.unique_id not in self._released and not any(old.hosts == ike_sa.hosts for ike_sa in after)
        ]
        if gone:
            pairs = ", ".join(f"{old.local.host} === {old.remote.host}" for old in gone)
            raise PeerReplacedError(
                f"{identity} ended the IKE_SA {pairs} for {established.local.host} === {established.remote.host}: "
                "set unique = no or never in its connection, or use method migrate",
                established,
            )

    async def _undo(self, name: str) -> None:
        for ike_sa in await self._list():
            if ike_sa.name == name:
                await self.release(ike_sa.unique_id)
        await self._unload(name)

    async def _unload(self, name: str) -> None:
        with suppress(ViciCommandFailedError):  # it is not loaded
            await self._client.request("unload-conn", {"name": name})

    async def end_child(self, ike_sa: IkeSa, child: ChildSa) -> None:
        """End one CHILD_SA, with the peer's consent. Fine when it is gone already. Raises FilterError, ViciError."""
        message = {"child-id": str(child.unique_id), "timeout": self._milliseconds}
        try:
            await self._wait_for_peer("terminate", message)
        except ViciCommandFailedError as error:
            current = await list_ike_sas(self._client, ike_unique_id=ike_sa.unique_id, noblock=False)
            if any(child.unique_id == left.unique_id for other in current for left in other.children):
                raise FilterError(
                    f"{ike_sa.remote.identity} does not confirm the end of CHILD_SA {child.name} in IKE_SA "
                    f"#{ike_sa.unique_id}, {ike_sa.local.host} === {ike_sa.remote.host}: that path is dead, release it"
                ) from error

    async def _wait_for_peer(self, command: str, message: Mapping[str, str], *, event: str | None = None) -> None:
        """Give a command that lasts until the peer has answered, on a connection of its own."""
        limit = self._time_limit + ANSWER_MARGIN
        async with self._turns, self._client.sibling(timeout=limit) as own:
            if event is None:
                await own.request(command, message)
            else:
                await own.stream(command, event, message)

    @property
    def _milliseconds(self) -> str:
        return str(round(self._time_limit * 1000))


def _of_peer(ike_sas: Sequence[IkeSa], connection: str, identity: str) -> tuple[IkeSa, ...]:
    found = (i for i in ike_sas if i.is_usable and i.remote.identity == identity and is_of(connection, i.name))
    return tuple(sorted(found, key=lambda ike_sa: ike_sa.unique_id))


def _may_be_completed(
    present: Sequence[IkeSa], connection: str, identity: str, local: IPAddress, remote: IPAddress
) -> bool:
    """The connection as the administrator has it stands once and for this pair: charon adds children to no other."""
    of_connection = [ike_sa for ike_sa in present if ike_sa.name == connection]
    ours = _of_peer(of_connection, connection, identity)
    return len(of_connection) == len(ours) == 1 and ours[0].connects(local, remote)


def _explain(lines: Sequence[str], loaded: ConnectionDefinition) -> str:
    """The likely cause in the administrator's words, from charon's log of the attempt."""
    for text, meaning in _CAUSES:
        for line in lines:
            if text in line:
                return f"{line}: {meaning}"
    local, remote = (next(iter(addresses), "any address") for addresses in (loaded.local_addrs, loaded.remote_addrs))
    if not any(line.startswith("received packet") for line in lines):
        return (
            f"{lines[0]}; nothing came from {remote}: check that {local} is on an interface, the route from there to "
            f"{remote}, and that UDP ports 500 and 4500 pass"
        )
    return f"{lines[0]}; the last that charon says is: {lines[-1]}"

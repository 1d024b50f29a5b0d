"""The administrator's connections exactly as `swanctl --load-conns` loads them, and clones bound to an address pair.

charon does not give back what was loaded into it (`list-conns` leaves out credentials, proposals and most
options), and the syntax of swanctl.conf (includes, section references, file names of certificates) is
strongSwan's business. So `swanctl` itself is run, against a VICI socket of our own that answers like an empty
charon and writes down what it is sent. Nothing of that reaches the real charon.

Source: strongSwan src/swanctl/commands/load_conns.c; swanctl.conf(5).
"""

import asyncio
import difflib
import os
import re
import struct
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vici.protocol import Packet

from swanroam.ike.associations import Mode
from swanroam.ike.confinement import outside_profile
from swanroam.ike.messages import (
    MAX_PACKET,
    IkeError,
    RawMessage,
    RawValue,
    ViciInput,
    ViciProtocolError,
    decode_raw,
    encode,
)
from swanroam.ike.selectors import IPAddress, TrafficSelector
from swanroam.kernel.descriptors import MORE_FILES

_HEADER = struct.Struct("!I")
_WILDCARDS = frozenset("*%")
_IDENTITY_TYPES = frozenset({"fqdn", "dns", "rfc822", "email", "userfqdn", "ipv4", "ipv6", "asn1dn", "keyid"})


NO = ("no", "false", "disabled", "0")
"""How swanctl.conf says no (settings_value_as_bool, strongSwan src/libstrongswan/settings/settings.c)."""


class DefinitionError(IkeError):
    """The administrator's connections cannot be read, or are not fit for what is asked."""


@dataclass(frozen=True, slots=True)
class ChildDefinition:
    """A `children` section. Defaults are strongSwan's: tunnel mode, `dynamic` selectors."""

    name: str
    mode: Mode
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]


@dataclass(frozen=True, slots=True)
class ConnectionDefinition:
    """One connection as swanctl sends it. `message` holds certificates and is not shown by `repr`."""

    name: str
    message: RawMessage = field(repr=False)

    @property
    def local_ids(self) -> tuple[str, ...]:
        """Own identities, one for each authentication round that names one."""
        return self._identities("local")

    @property
    def remote_ids(self) -> tuple[str, ...]:
        """The peer's identities, one for each authentication round that names one; may hold wildcards."""
        return self._identities("remote")

    @property
    def remote_addrs(self) -> tuple[str, ...]:
        return _texts(self.message, "remote_addrs")

    @property
    def local_addrs(self) -> tuple[str, ...]:
        return _texts(self.message, "local_addrs")

    @property
    def unique(self) -> str:
        """The uniqueness policy; `no` is the default."""
        return _text(self.message, "unique", "no")

    @property
    def children(self) -> dict[str, ChildDefinition]:
        """Definitions of the CHILD_SAs by name. Raises DefinitionError for selectors that cannot be read."""
        return {name: self._child(name, section) for name, section in self._child_sections().items()}

    @property
    def mobike(self) -> bool:
        """Whether charon may move its IKE_SAs by itself; it may unless told otherwise."""
        return _text(self.message, "mobike", "yes") not in NO

    def child_option(self, child: str, option: str) -> str:
        """An option of a child as swanctl sends it; empty when it is not set."""
        return _text(self._child_sections().get(child, {}), option, "")

    def accepts_identity(self, identity: str) -> bool:
        """Whether a peer of this identity may be meant: it is named, or nothing precise is said."""
        return _names(self.remote_ids, identity)

    def sends_identity(self, identity: str) -> bool:
        """Whether we may be of this identity towards the peer: it is named, or nothing precise is said."""
        return _names(self.local_ids, identity)

    def bound_to(
        self,
        *,
        name: str,
        local: IPAddress,
        remote: IPAddress,
        children: frozenset[str],
        local_id: str | None = None,
        remote_id: str | None = None,
    ) -> "ConnectionDefinition":
        """A clone for this pair of addresses with only these children, to be initiated by hand beside the original.

        What differs from the original, and why:

        - `local_addrs`, `remote_addrs` are the pair; everything `dynamic` follows them.
        - `start_action`, `close_action`, `dpd_action` are off. Loading the clone must not set up traps or
          associations a second time, nor its end start another: the controller looks after the clone.
        - `unique` is `never`. Otherwise charon may tell the peer with INITIAL_CONTACT to drop the very IKE_SA
          that is to live on beside the new one (it does when it does not know the peer's identity yet, or knows
          it on the other address family only), or drop it itself.
        - `mobike` is off: charon must not take the IKE_SA to others of the two hosts' addresses (ike_mobike.c).
        - An identity that the original leaves open (none, or a wildcard) becomes `local_id`, `remote_id` where
          given: an own identity left open would be the address, which changes; a peer's left open would accept
          anybody at that address.

        Raises DefinitionError when the original cannot be used on another address.
        """
        if _text(self.message, "version", "0") == "1":
            raise DefinitionError(f"connection {self.name} is IKEv1, which cannot roam: set version = 2")
        known = self._child_sections()
        for child in sorted(children):
            if child not in known:
                hint = _did_you_mean(child, known)
                raise DefinitionError(f"connection {self.name} has no child {child}{hint}: add it under its children")
            self._check_movable(self._child(child, known[child]))
        message: RawMessage = {
            **self.message,
            "local_addrs": [str(local).encode()],
            "remote_addrs": [str(remote).encode()],
            "unique": b"never",
            "mobike": b"no",
            "children": {
                child: {**section, "start_action": b"none", "close_action": b"none", "dpd_action": b"clear"}
                for child, section in known.items()
                if child in children
            },
        }
        for side, identity in (("local", local_id), ("remote", remote_id)):
            if identity is not None:
                self._pin_identity(message, side, identity)
        return ConnectionDefinition(name, message)

    def _pin_identity(self, message: RawMessage, side: str, identity: str) -> None:
        """Fill in the identity of the first authentication round where it is open."""
        rounds = self._rounds(side)
        section_name, section = next(iter(rounds.items()), (side, {}))
        said = _text(section, "id", "%any")
        if _WILDCARDS & set(said):
            message[section_name] = {**section, "id": identity.encode()}

    def _check_movable(self, child: ChildDefinition) -> None:
        if child.mode is not Mode.TRANSPORT:
            return
        for key, selectors in (("local_ts", child.local_ts), ("remote_ts", child.remote_ts)):
            for selector in selectors:
                if not selector.is_dynamic:
                    raise DefinitionError(
                        f"child {child.name} of connection {self.name} is in transport mode with {key} = {selector}, "
                        f"which does not follow an address change: leave {key} out or write dynamic[protocol/port]"
                    )

    def _rounds(self, side: str) -> dict[str, RawMessage]:
        """Authentication rounds in their order: sections `local`, `local-1`, `local2`, ... by their `round`,
        then name."""
        sections = {
            name: section
            for name, section in self.message.items()
            if isinstance(section, dict) and name.startswith(side) and not name.removeprefix(side).startswith("_")
        }
        return dict(sorted(sections.items(), key=lambda item: int(_text(item[1], "round", "0"))))

    def _identities(self, side: str) -> tuple[str, ...]:
        return tuple(_text(section, "id", "") for section in self._rounds(side).values() if "id" in section)

    def _child_sections(self) -> dict[str, RawMessage]:
        children = self.message.get("children", {})
        assert isinstance(children, dict)
        return {name: section for name, section in children.items() if isinstance(section, dict)}

    def _child(self, name: str, section: RawMessage) -> ChildDefinition:
        try:
            local_ts, remote_ts = (
                tuple(TrafficSelector.parse(text) for text in _texts(section, key) or ("dynamic",))
                for key in ("local_ts", "remote_ts")
            )
        except ValueError as error:
            raise DefinitionError(f"child {name} of connection {self.name}: {error}") from error
        return ChildDefinition(name, Mode(_text(section, "mode", "tunnel").upper()), local_ts, remote_ts)


class Definitions(Mapping[str, ConnectionDefinition]):
    """Connections by name. `complaints` is what swanctl said about those that it could not load."""

    def __init__(self, connections: Mapping[str, ConnectionDefinition], complaints: tuple[str, ...] = ()) -> None:
        self._connections = dict(connections)
        self.complaints = complaints

    def __getitem__(self, name: str) -> ConnectionDefinition:
        return self._connections[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._connections)

    def __len__(self) -> int:
        return len(self._connections)

    def connection(self, name: str) -> ConnectionDefinition:
        """The connection of this name. Raises DefinitionError with the likely cause when there is none."""
        try:
            return self._connections[name]
        except KeyError:
            cause = "".join(f"; swanctl says: {line}" for line in self.complaints)
            if _as_whom():
                cause += f"; swanctl passes over files that it must not read{_as_whom()}: look at their permissions"
            raise DefinitionError(
                f"swanctl's configuration has no connection {name}{_did_you_mean(name, self)}{cause}"
            ) from None


def _as_whom() -> str:
    """Which user swanctl runs as, when that can be the reason that it does not see a file."""
    user = os.geteuid()
    return f" as the user with number {user}" if user else ""


DefinitionsProvider = Callable[[], Awaitable[Definitions]]


async def read_definitions(
    *,
    swanctl: str = "swanctl",
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    time_limit: float = 10.0,
) -> Definitions:
    """Ask swanctl for the connections in its configuration, or in `file`.

    `environment` is added to our own for swanctl, e.g. SWANCTL_DIR, to which names of certificate files are relative.
    Raises DefinitionError.
    """
    try:
        return await _read_definitions(swanctl, file, environment or {}, time_limit)
    except OSError as error:
        raise DefinitionError(
            f"the connections cannot be read: {error}; {swanctl} needs a little room in {tempfile.gettempdir()}; or "
            f"{MORE_FILES}"
        ) from error


async def _read_definitions(
    swanctl: str, file: Path | None, environment: Mapping[str, str], time_limit: float
) -> Definitions:
    """Raises DefinitionError, and OSError where this host lacks something."""
    with tempfile.TemporaryDirectory(prefix="swanroam-") as directory:  # mode 0700: certificates pass through it
        socket = Path(directory) / "vici"
        recorder = _Recorder()
        server = await asyncio.start_unix_server(recorder.serve, socket)
        async with server:
            more = [] if file is None else ["--file", str(file)]
            arguments = ["--load-conns", "--uri", f"unix://{socket}", *more]
            status, complaints = await _run(swanctl, arguments, {**os.environ, **environment}, time_limit)
    # Syntax errors leave the exit status at 0 and no connection.
    if recorder.error is not None:
        raise DefinitionError(f"{swanctl} sent what is no VICI: {recorder.error}") from recorder.error
    if not recorder.connections and (status != 0 or complaints):
        said = "; ".join(complaints) or f"exit status {status}"
        raise DefinitionError(
            f"{swanctl} cannot read the connections: {said}. Try `swanctl --load-conns` by hand{_as_whom()}"
        )
    return Definitions(recorder.connections, complaints)


async def _run(
    program: str, arguments: list[str], environment: Mapping[str, str], time_limit: float
) -> tuple[int, tuple[str, ...]]:
    """Exit status and the complaints of swanctl."""
    try:
        process = await asyncio.create_subprocess_exec(
            *outside_profile(program, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        raise DefinitionError(
            f"cannot run {program}: {error.strerror}; install strongSwan's swanctl (package strongswan-swanctl)"
        ) from error
    try:
        async with asyncio.timeout(time_limit):
            _, stderr = await process.communicate()
    except TimeoutError:
        raise DefinitionError(f"{program} did not finish within {time_limit:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    lines = stderr.decode("utf-8", "replace").splitlines()
    return process.returncode, tuple(line for line in lines if line and not _is_noise(line))


def _is_noise(line: str) -> bool:
    """Optional plugins that are not installed or want more privileges, include patterns without a file: usual on a
    healthy system."""
    return line.startswith(("plugin '", "expanding file pattern ")) or " plugin requires CAP_" in line


class _Recorder:
    """The server's side of VICI, as far as `swanctl --load-conns` uses it."""

    def __init__(self) -> None:
        self.connections: dict[str, ConnectionDefinition] = {}
        self.error: ViciProtocolError | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                if length > MAX_PACKET:
                    raise ViciProtocolError(f"a packet of {length} bytes was announced, the limit is {MAX_PACKET}")
                answer = self._answer(await reader.readexactly(length))
                writer.write(_HEADER.pack(len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # swanctl has finished
        except ViciProtocolError as error:
            self.error = error
        finally:
            writer.close()

    def _answer(self, packet: bytes) -> bytes:
        """Record a connection, be an empty charon for everything else."""
        if len(packet) < 2:
            raise ViciProtocolError("the packet is too short")
        if packet[0] != Packet.CMD_REQUEST:
            return bytes([Packet.EVENT_CONFIRM])
        start = 2 + packet[1]
        command = packet[2:start].decode("utf-8", "replace")
        if command == "load-conn":
            for name, message in decode_raw(packet[start:]).items():
                if isinstance(message, dict):
                    self.connections[name] = ConnectionDefinition(name, message)
        reply: dict[str, ViciInput] = {"conns": []} if command == "get-conns" else {"success": True}
        return bytes([Packet.CMD_RESPONSE]) + encode(reply)


def _names(names: tuple[str, ...], identity: str) -> bool:
    wanted = _as_reported(identity)
    return not names or any(_WILDCARDS & set(name) or _as_reported(name) == wanted for name in names)


def _as_reported(identity: str) -> str:
    """An identity as charon prints it: without the mark of its type (swanctl.conf(5), *Identities*), and a
    distinguished name without the spaces that it may be written with."""
    if not identity.startswith("@#"):  # a key ID in hexadecimal
        kind, colon, rest = identity.partition(":")
        text = rest if colon and kind in _IDENTITY_TYPES else identity
        identity = text.removeprefix("@").removeprefix("@")
    return re.sub(r"\s*([,=])\s*", r"\1", identity) if "=" in identity else identity


def _text(section: Mapping[str, RawValue], key: str, default: str) -> str:
    value = section.get(key)
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else default


def _texts(section: Mapping[str, RawValue], key: str) -> tuple[str, ...]:
    value = section.get(key, [])
    assert isinstance(value, list), key
    return tuple(item.decode("utf-8", "backslashreplace") for item in value)


def _did_you_mean(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (there is {', '.join(known)})" if known else ""

"""What a host still has after a story that it should not have."""

import os
import re
import signal
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

from lab.addressing import NETWORKS, Family
from lab.host import Host
from lab.waiting import wait_for

# What belongs to one device or to one run, and not to what the host does.
_INCIDENTAL = (
    (re.compile(r"^(default via .*) metric \d+", re.MULTILINE), r"\1"),
    (re.compile(r"^\d+: ", re.MULTILINE), ""),
    (re.compile(r"@if\d+"), ""),
    (re.compile(r"fe80::[0-9a-f:]+(?=[/ ])"), "fe80::*"),
    (re.compile(r"handle 0x\w+"), "handle *"),
)

SETTLING = 5.0
"""Seconds."""
NURSERY = "swanroam-nurse"
MOVER = "swanroam-mover"
"""comm of the processes that move sockets."""
END = r"(?![0-9a-f.:])"
"""After an address or a name: it does not go on."""


def as_at_present(snapshot: str, host: Host, began_in: Mapping[str, str]) -> str:
    """A host's snapshot of when all were in the networks `began_in`, as it would be with all where they are now.

    What is exchanged: names and addresses of the host's own two networks, and its peers' two addresses.
    """
    began, now = began_in[host.name], host.network
    pairs = [(began, now), *((_prefix(began, family), _prefix(now, family)) for family in Family)]
    for peer in host.controller.peers:
        networks = began_in[peer.name], peer.network
        pairs += [tuple(str(peer.address_in(network, family)) for network in networks) for family in Family]
    exchanged = {text: other for one, two in pairs for text, other in ((one, two), (two, one))}
    pattern = re.compile("|".join(rf"\b{re.escape(text)}{'' if text[-1] in '.:' else END}" for text in exchanged))
    return pattern.sub(lambda match: exchanged[match[0]], snapshot)


def _prefix(network: str, family: Family) -> str:
    """What all addresses of a network begin with, as text: `10.1.1.`, `2001:db8:a:`."""
    address = str(NETWORKS[network].router(family))
    return address[:-1] if family is Family.IPV4 else address[:-2]


def _entries(snapshot: str) -> Counter[str]:
    """Every entry with the name of its section, and how often it is there."""
    for pattern, replacement in _INCIDENTAL:
        snapshot = pattern.sub(replacement, snapshot)
    found: Counter[str] = Counter()
    section = entry = ""
    for line in snapshot.splitlines():
        if line.startswith("--- "):
            section = line
        elif line[0].isspace():
            entry += f"\n{line}"
            continue
        if entry:
            found[entry] += 1
        entry = "" if line.startswith("--- ") else f"{section} {line}"
    if entry:
        found[entry] += 1
    return found


def assert_same(host: Host, earlier: str, began_in: Mapping[str, str], when: str) -> None:
    """The host's kernel has what it had, the present networks taken for those in which the hosts began.

    It may take a moment: IPv6's local routes come from a work queue.
    """

    def differences() -> list[str]:
        expected, has = _entries(as_at_present(earlier, host, began_in)), _entries(host.snapshot())
        return [*(f"+ {entry}" for entry in has - expected), *(f"- {entry}" for entry in expected - has)]

    wait_for(
        lambda: not differences(),
        SETTLING,
        f"{host.name}: as {when}",
        lambda: "\n".join(differences()),
        poll=0.2,
    )


def processes(host: Host, name: str, parent: int | None = None) -> list[int]:
    """A host's processes with this name (comm), and this parent if one is given."""
    found = []
    for pid in host.pids():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            comm, _, status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").partition("(")[2].rpartition(")")
            if comm == name and parent in (None, int(status.split()[1])):
                found.append(pid)
    return found


def kill_one(host: Host, name: str, random: Random) -> bool:
    """SIGKILL to one of a host's processes of a name; whether there was one. It may be about to end by itself.

    Of a mover's processes any one may die. Who kills worker and keeper at once takes the connection that they have in
    hand (docs/sockets.md).
    """
    pids = processes(host, name)
    if pids:
        with suppress(ProcessLookupError):
            os.kill(random.choice(pids), signal.SIGKILL)
    return bool(pids)


def assert_no_process(host: Host, programs: Collection[int] = ()) -> None:
    """Nothing runs there but the daemons and these; what one started a moment ago may end, an idle mover among it.

    Daemons are charon, the controller, and the one nursery that the controller has as long as it runs.
    """
    charon = None if host.charon.process is None else host.charon.process.pid

    def only_daemons() -> bool:
        controller = host.controller.pid
        nursery = [] if controller is None else processes(host, NURSERY, controller)
        return len(nursery) <= 1 and not set(host.pids()) - {charon, controller, *nursery, *programs}

    wait_for(
        only_daemons,
        15,
        f"{host.name}: only its daemons run",
        lambda: host.run(["ps", "-o", "pid,ppid,args", "-p", ",".join(map(str, host.pids()))], check=False).stdout,
        poll=0.1,
    )


def descriptors(host: Host) -> int:
    """Open file descriptors of the host's controller."""
    return sum(1 for _ in _descriptor_directory(host).iterdir())


def _descriptor_directory(host: Host) -> Path:
    return Path(f"/proc/{host.controller.pid}/fd")


def assert_descriptors(host: Host, count: int) -> None:
    """The controller has no more of them than it had; one that answers a request may be open for a moment."""

    def described() -> str:
        return "\n".join(str(path.readlink()) for path in sorted(_descriptor_directory(host).iterdir()))

    wait_for(lambda: descriptors(host) <= count, 10, f"{host.name}: {count} open descriptors", described, poll=0.1)


def assert_no_idle_connection(host: Host) -> None:
    """charon has loaded the administrator's connections, and a clone only where it has an IKE_SA.

    One that was just being made when its address went stays until charon has given up.
    """
    configured = {f"peer-{peer.name}" for peer in host.controller.peers}

    def idle() -> set[str]:
        with host.charon.session() as session:
            loaded = {name.decode() for name in session.get_conns()["conns"]}
        return loaded - configured - {sa["name"] for sa in host.charon.sas()}

    wait_for(lambda: not idle(), 30, f"{host.name}: no connection is loaded that has no IKE_SA", lambda: f"{idle()}")

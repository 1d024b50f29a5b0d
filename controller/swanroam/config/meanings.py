"""What each key of the configuration file means, in the words of the reference. Keys and kinds: schema.py.

`docs/configuration.md` and the JSON Schema for editors are made of these (`make docs`), so a key is explained in one
place. A unit test fails for a key without a meaning, a meaning without a key, and an example that is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Meaning:
    """One key, for people."""

    text: str
    """What it does; Markdown, one paragraph."""
    example: str = ""
    """A value as it is written in the file. None for sections."""
    default: str = ""
    """What holds without the key, in words, where the model has no value that could be written in the file."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What each word of a choice means."""


MEANINGS: Final[Mapping[str, Meaning]] = {
    "identity": Meaning(
        "The IKE identity that this host authenticates with: `id` in the `local` section of swanctl.conf, written "
        "exactly as charon prints it (`swanctl --list-sas`).",
        "mobile.example.org",
    ),
    "vici_socket": Meaning(
        "charon's VICI socket, `charon.plugins.vici.socket` in strongswan.conf.", "/run/charon.vici"
    ),
    "swanctl": Meaning("The program that reads swanctl.conf, by name or absolute path.", "/usr/sbin/swanctl"),
    "swanctl_file": Meaning(
        "Where the definitions of the connections are read from, as with `swanctl --load-all --file`.",
        "/etc/swanctl/swanctl.conf",
        default="the file that the program itself takes",
    ),
    "state_directory": Meaning(
        "Holds the journal, which must outlive a restart of the host. The systemd unit makes only its default.",
        "/var/lib/swanroam",
    ),
    "runtime_directory": Meaning(
        "Holds the socket through which the command line talks to the daemon, and the lock that keeps it alone.",
        "/run/swanroam",
    ),
    "api_group": Meaning(
        "The group whose members may use `swanroam status`, `move` and so on, besides root. The user that the daemon "
        "runs as must be a member, too.",
        "swanroam-admin",
        default="the group that the daemon runs as",
    ),
    "control": Meaning(
        "The secured control channel, by which two controllers talk. Both hosts need the same values, but for "
        "`address`."
    ),
    "control.port": Meaning(
        "UDP port of the control channel, inside the tunnel. Not 500 and 4500, which are IKE's.", "4511"
    ),
    "control.prefix": Meaning(
        "The IPv6 prefix, /8 to /64, in which every host has its inner address, made of its identity. Must be used by "
        "nothing else; nothing that is not inside the control CHILD_SA leaves a host for it.",
        '"fd12:3456:789a::/48"',
    ),
    "control.mark": Meaning(
        "SO_MARK of control datagrams. The same number is `set_mark_out` of the control child in swanctl.conf; the "
        "next two are used as well.",
        "0x5353",
    ),
    "control.child": Meaning("Name of the tunnel-mode CHILD_SA in swanctl.conf that protects the channel.", "swanroam"),
    "control.address": Meaning(
        "This host's inner address. Only where the derived one cannot be used; the peer then needs it as "
        "`control_address`, and swanctl.conf of both as selector.",
        '"fd53:7761:6e72::1"',
        default="`prefix` and the first bits of SHA-256 over `identity`",
    ),
    "carrier": Meaning("Numbers in the kernel that nothing else on this host may use. Each host may have its own."),
    "carrier.table": Meaning(
        "The first of three routing tables in a row: packets of old addresses, control datagrams, local routes of old "
        "addresses. None of the three may be 220 (charon's) or 253 to 255 (the kernel's).",
        "7300",
    ),
    "carrier.rule_priority": Meaning(
        "The first of four priorities of routing rules (`ip rule`) in a row. Rules of your own for traffic with a peer "
        "must come later.",
        "90",
    ),
    "addresses": Meaning("Which of this host's addresses count as places where peers reach it, and which is taken."),
    "addresses.interfaces": Meaning(
        "Interfaces whose addresses count, as globs. Loopback and swanroam's own devices never do.", "[eth*, wlan0]"
    ),
    "addresses.ignore_interfaces": Meaning(
        "Interfaces whose addresses do not count, as globs. Without effect by default once `interfaces` is given, so "
        "that a bridge which is named there does count.",
        "[docker*, tun*]",
    ),
    "addresses.ignore": Meaning("Prefixes whose addresses never count.", "[10.99.0.0/16]"),
    "addresses.prefer": Meaning(
        "Which address is taken where several count: `route`, the source address that the host's routing picks towards "
        "the peer, or a list of interfaces as globs, best first.",
        "[eth*, wlan*, wwan*]",
    ),
    "addresses.readd_window": Meaning(
        "An address that comes back within this time on a link that is up was never gone (renewal of a DHCP lease).",
        "2s",
    ),
    "addresses.guard_new": Meaning(
        "Whether packets to a peer are kept from leaving in clear from an address that the host has just been given, "
        "and that no SA protects yet.",
        "always",
        words={
            "auto": "in each IP version, unless this host forwards packets of others: theirs would be stopped as well",
            "always": "also where this host forwards",
            "never": "only from addresses that swanroam has already taken up",
        },
    ),
    "sockets": Meaning("How open connections move to the new address, and what becomes of those that stay."),
    "sockets.hold": Meaning(
        "The longest that a program is stopped for the move of its sockets. What is not done by then stays as it was, "
        "and is tried again. Needs to be more than the round trip time to the peer.",
        "2s",
    ),
    "sockets.stopped_share": Meaning(
        "Per cent of the time for which one peer may have programs of this host stopped, in the long run, with 10 s in "
        "advance.",
        "5",
    ),
    "sockets.exclude_processes": Meaning(
        "Names of processes, as globs, whose sockets stay on the old address until they close. A name is the first 15 "
        "characters of the program's (`/proc/PID/comm`).",
        "[postgres, nginx*]",
    ),
    "sockets.exclude_ports": Meaning("Sockets with one of these ports, at either end, stay as well.", "[22, 5432]"),
    "sockets.end_after": Meaning(
        "How long after the grace period sockets may stay on an old address before they are ended with a reset, so "
        "that it can go. `never`: as long as they live.",
        "8h",
    ),
    "timing": Meaning("How patient the control channel is. The defaults suit most networks."),
    "timing.first_retransmit": Meaning(
        "Time until a message without answer is sent again; doubled each time, up to 5 s. A little more than the round "
        "trip time to the peer is right.",
        "250ms",
    ),
    "timing.give_up": Meaning(
        "Time after which a peer that does not answer counts as silent: it is then asked every `refresh` only, and at "
        "every change of addresses. At least twice `first_retransmit`.",
        "1m",
    ),
    "timing.refresh": Meaning(
        "How often an idle peer is asked whether it is there, and told where this host is.", "30s"
    ),
    "metrics": Meaning("Numbers for Prometheus; see [metrics](metrics.md)."),
    "metrics.listen": Meaning(
        "Where they can be had by HTTP, without any password: who reaches that address sees your peers' names.",
        "127.0.0.1:9510",
    ),
    "log": Meaning("What the daemon writes to standard error, which systemd puts into the journal."),
    "log.format": Meaning(
        "How a line looks.",
        "json",
        words={
            "auto": "`console` on a terminal, `json` otherwise",
            "console": "for people",
            "json": "one JSON object a line",
        },
    ),
    "log.level": Meaning(
        "What is written; each level has all that follow it.",
        "debug",
        words={
            "debug": "every message and every kernel object",
            "info": "the story of each handover",
            "warning": "what somebody should look at",
            "error": "what swanroam could not do",
        },
    ),
    "defaults": Meaning("What peers have in common; an item of `peers` may say otherwise."),
    "peers": Meaning("The hosts whose connections are kept alive; at least one."),
    "peers.identity": Meaning(
        "The IKE identity that the peer authenticates with, exactly as charon prints it.", "server.example.org"
    ),
    "peers.connection": Meaning("Name of the swanctl connection to the peer.", "server"),
    "peers.name": Meaning(
        "A short name for logs, `swanroam status`, and `--peer` of `swanroam move`.", "office", default="its `identity`"
    ),
    "peers.moves": Meaning(
        "Whose address may change. A host that may not move announces nothing, and keeps no old address of its own; "
        "the other host must see it the same way.",
        "us",
        words={"us": "only this host's", "peer": "only the peer's", "both": "either's"},
    ),
    "peers.allow": Meaning(
        "Where the peer may move to. Link-local addresses (IPv4 only) count only where a prefix of theirs is named.",
        '[192.0.2.0/24, "2001:db8::/32"]',
    ),
    "peers.filters": Meaning(
        "How the security associations get to the new address when *this* host moves; when the peer moves, its "
        "configuration decides. See [renegotiate or migrate](operations.md#renegotiate-or-migrate).",
        "migrate",
        words={
            "renegotiate": "a second IKE_SA, with keys of its own, is made beside the old one",
            "migrate": "the same SAs are re-addressed, keys kept: for peers that do not allow two",
        },
    ),
    "peers.transport": Meaning(
        "What becomes of open connections.",
        "keep",
        words={
            "move": "they get the new address, as far as they can ([which can](sockets.md))",
            "keep": "they stay on the old one, over the carrier, until they close",
        },
    ),
    "peers.grace": Meaning(
        "How long the old address is kept at least, for packets that are still under way, once all stands at the new "
        "one. The longer of both hosts' counts.",
        "30s",
    ),
    "peers.children": Meaning(
        "Names of the transport-mode CHILD_SAs to move. Not the control child, which moves by itself.",
        "[data]",
        default="all that are installed",
    ),
    "peers.fallback": Meaning(
        "Where the peer is looked for when both hosts have moved at the same moment: addresses and DNS names, resolved "
        "anew each time, tried in this order. `[]`: nowhere. Only for a host that may move.",
        "[server.example.org, 192.0.2.7]",
        default="`remote_addrs` of the connection",
    ),
    "peers.control_address": Meaning(
        "The peer's inner address, if it has another than the derived one (its `control.address`).",
        '"fd53:7761:6e72::2"',
        default="`control.prefix` and the first bits of SHA-256 over its `identity`",
    ),
}
"""By the path of the key. What stands under `defaults` is explained where it is under `peers`."""

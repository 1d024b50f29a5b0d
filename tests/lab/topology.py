"""The lab as scenario tests see it.

with Lab(family=Family.IPV4) as lab:
    lab.start()                                    # charons up, data and control CHILD_SAs established
    with lab.capturing() as capture:
        lab.mobile.start_controller(); lab.correspondent.start_controller()
        ...
        lab.mobile.move_to("net-b", gap=0.5)
    assert not capture.clear_packets()
"""

import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import namespace, traffic
from lab.addressing import CORRESPONDENT_NETWORKS, MOBILE_NETWORKS, NETWORKS, Family, IPAddress
from lab.capture import Capture
from lab.host import Host, HostSettings
from lab.ike_config import CONTROL, DATA, KEPT_UP, Authentication, Credentials, Party, write_swanctl
from lab.namespace import Namespace
from lab.network import Router
from lab.zygote import Zygote


class Lab:
    """Hosts, router, credentials. Everything that it makes is gone after `close`."""

    def __init__(
        self,
        *,
        family: Family = Family.IPV4,
        mobiles: int = 1,
        correspondents: int = 1,
        authentication: Authentication = "psk",
        mobike: bool = True,
        roam_events: bool = False,
        connection_options: Iterable[str] = (),
        kept_up: bool = False,
        duplicate_address_detection: bool = False,
        named: bool = False,
        seed: int = 0,
        zygote: Zygote | None = None,
    ) -> None:
        """`connection_options` are further lines of every swanctl connection. `kept_up`: charon of a mobile host brings
        its connections up when it has loaded them, and again when it finds the peer gone. `named`: hosts connect by
        name, which is the identity and resolves as `name_hosts` has said last."""
        self.family = family
        self.random = random.Random(seed)
        """For the scenario's own choices."""
        self.closed = False
        self._kept_up = kept_up
        self._zygote = zygote or Zygote()
        self._own_zygote = zygote is None
        self._captures: list[Capture] = []
        self.hosts: list[Host] = []
        self._bystanders: list[Namespace] = []
        self.directory = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
        namespace.remove_stale()
        try:
            self.router = Router()
            self.mobiles = [
                self._host("mobile", index, MOBILE_NETWORKS, duplicate_address_detection, roam_events)
                for index in range(mobiles)
            ]
            self.correspondents = [
                self._host("correspondent", index, CORRESPONDENT_NETWORKS, duplicate_address_detection, roam_events)
                for index in range(correspondents)
            ]
            self.traffic = traffic.Traffic(self.directory, self.random)
            credentials = Credentials(self.directory / "authority", authentication)
            self._configure(credentials, mobike, connection_options, kept_up=kept_up, named=named)
            if named:
                self.name_hosts()
                for host in self.hosts:
                    host.run(["mount", "--bind", str(self._names), "/etc/hosts"])
        except BaseException:
            self.close()
            raise

    def _host(
        self, kind: str, index: int, networks: tuple[str, ...], address_detection: bool, roam_events: bool
    ) -> Host:
        settings = HostSettings(
            name=kind if index == 0 else f"{kind}{index + 1}",
            number=2 + index,
            networks=networks,
            duplicate_address_detection=address_detection,
        )
        host = Host(
            settings,
            family=self.family,
            directory=self.directory / settings.name,
            router=self.router,
            zygote=self._zygote,
            charon_options={"roam_events": roam_events},
        )
        self.hosts.append(host)
        return host

    def _configure(
        self, credentials: Credentials, mobike: bool, options: Iterable[str], *, kept_up: bool, named: bool
    ) -> None:
        """Mobile hosts connect to correspondents, those accept from any address."""
        for own, others, reachable in (
            (self.mobiles, self.correspondents, True),
            (self.correspondents, self.mobiles, False),
        ):
            for host in own:
                peers = [
                    Party(
                        peer.name,
                        peer.identity,
                        peer.charon.swanctl_directory,
                        (peer.identity if named else peer.address) if reachable else None,
                    )
                    for peer in others
                ]
                me = Party(host.name, host.identity, host.charon.swanctl_directory, None)
                actions = KEPT_UP if kept_up and reachable else ()
                write_swanctl(me, peers, credentials, mobike=mobike, options=options, child_options=actions)
                host.controller.peers = others

    @property
    def _names(self) -> Path:
        return self.directory / "hosts"

    def name_hosts(self, elsewhere: Mapping[Host, IPAddress] | None = None) -> None:
        """From now on every host's name resolves to its present address, or to the one that is given."""
        addresses = {host: host.address for host in self.hosts} | dict(elsewhere or {})
        lines = [f"{address} {host.identity}\n" for host, address in addresses.items()]
        self._names.write_text("".join(lines), encoding="ascii")  # in place: it is mounted

    @property
    def mobile(self) -> Host:
        return self.mobiles[0]

    @property
    def correspondent(self) -> Host:
        return self.correspondents[0]

    def start(self) -> None:
        """All charons, and all CHILD_SAs between mobile hosts and correspondents."""
        for host in reversed(self.hosts):  # correspondents first: a mobile host may connect by itself
            host.charon.start()
        if self._kept_up:
            for host in self.hosts:
                for peer in host.controller.peers:
                    host.charon.wait_established(f"peer-{peer.name}", DATA, CONTROL)
            return
        for mobile in self.mobiles:
            for correspondent in self.correspondents:
                self.establish(mobile, correspondent)

    def establish(self, mobile: Host, correspondent: Host, children: Iterable[str] = (DATA, CONTROL)) -> None:
        """Let a mobile host bring up its CHILD_SAs to a correspondent."""
        for child in children:
            mobile.charon.initiate(f"peer-{correspondent.name}", child)
        correspondent.charon.wait_established(f"peer-{mobile.name}", *children)

    def add_bystander(self, network: str, number: int) -> Namespace:
        """A host that has neither charon nor swanroam, with the addresses that host `number` has, or had, there.

        The router has heard of it when this returns.
        """
        name = f"bystander{len(self._bystanders) + 1}"
        made = Namespace(name, {"net__ipv6__conf__default__accept_dad": 0})
        self._bystanders.append(made)
        self.router.attach(made, [network], 100 + len(self._bystanders))
        made.ip(f"link set {network} up")
        where = NETWORKS[network]
        for family in Family:
            own, gateway = where.address(family, number), where.router(family)
            made.ip(
                f"addr add {own}/{where.prefix_length(family)} dev {network}",
                f"route add default via {gateway} dev {network}",
            )
            self.router.namespace.ip(f"neigh flush to {own} dev {network}")
            made.run(["ping", "-n", "-c", "1", "-W", "5", str(gateway)])
        return made

    def start_controllers(self, config: dict[str, Any] | None = None) -> None:
        """swanroam on every host."""
        for host in self.hosts:
            host.start_controller(config, wait=False)
        for host in self.hosts:
            host.controller.wait_started()

    @contextmanager
    def capturing(self) -> Iterator[Capture]:
        """Capture on all legs of the router inside the block; analysed after it."""
        capture = self.start_capture()
        try:
            yield capture
        finally:
            capture.stop()

    def start_capture(self, expression: str = "") -> Capture:
        """Capture on all legs of the router until its `stop`; of what, see `Capture`."""
        capture = Capture(self.router, self.directory / f"router-{len(self._captures) + 1}.pcap", expression)
        capture.pairs = [
            (mobile.all_addresses, correspondent.all_addresses)
            for mobile in self.mobiles
            for correspondent in self.correspondents
        ]
        self._captures.append(capture)
        capture.start()
        return capture

    def dump(self) -> str:
        """How things stand everywhere, for a failure's report; without key material."""
        return "\n\n".join(host.dump() for host in self.hosts)

    def save_artifacts(self, name: str) -> None:
        """Copy logs, configurations and captures to where the launcher collects them, keys left out."""
        target = os.environ.get("SWANROAM_ARTIFACTS")
        if target:
            ignored = shutil.ignore_patterns("*.key", "swanctl", "private", "*.vici", "*.sock", "run", "authority")
            shutil.copytree(self.directory, Path(target) / name, ignore=ignored, dirs_exist_ok=True)

    def close(self) -> None:
        """Kill all processes, remove all namespaces and files. Goes on to the end when something fails."""
        if self.closed:
            return
        self.closed = True
        failures: list[Exception] = []
        steps = [capture.kill for capture in self._captures]
        steps += [host.delete for host in (*self.hosts, *self._bystanders)]
        if hasattr(self, "router"):
            steps.append(self.router.delete)
        if self._own_zygote:
            steps.append(self._zygote.close)
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - the rest has to go all the same
                failures.append(error)
        shutil.rmtree(self.directory, ignore_errors=True)
        if failures:
            raise ExceptionGroup("the lab did not go away completely", failures)

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""Takes away what a controller has left in the kernel, without a controller."""

from __future__ import annotations

from swanroam.config import Config
from swanroam.daemon.controller import HostError
from swanroam.daemon.translation import carrier_settings
from swanroam.ike.migrate import clear_clones
from swanroam.kernel.carrier import CarrierPlane
from swanroam.kernel.inner import InnerPlane
from swanroam.kernel.rtnetlink import RouteSocket, RouteSocketError
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.kernel.xfrm.locks import clear_locks
from swanroam.kernel.xfrm.policies import clear_owned
from swanroam.kernel.xfrm.socket import XfrmSocket


async def clear_host(config: Config) -> list[str]:
    """Takes everything of ours out of the kernel, whoever left it there; says what it was. Raises HostError."""
    settings = carrier_settings(config)
    try:
        async with XfrmSocket() as xfrm, RouteSocket() as netlink:
            inner = await InnerPlane(netlink, settings).clear()
            carriers = await CarrierPlane(netlink, settings).clear()
            clones = await clear_clones(xfrm, [peer.identity for peer in config.peers])
            locks = await clear_locks(xfrm)
            policies = await clear_owned(xfrm)
    except (XfrmError, RouteSocketError) as error:
        raise HostError(str(error)) from error
    return [
        *inner.removed,
        *carriers.removed,
        *sorted(f"SA {association}" for association in clones),
        *sorted(f"lock of {lock}" for lock in locks),
        *sorted(f"policy {policy}" for policy in policies),
    ]

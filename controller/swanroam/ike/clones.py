"""Names of the connections that swanroam loads beside the administrator's: `<connection>~<local
address>~<remote address>`.

A name follows from the address pair alone, so that a clone is found again after a crash, and `swanctl
--list-sas` tells an administrator what it is.
"""

from ipaddress import ip_address

from swanroam.ike.selectors import IPAddress

SEPARATOR = "~"


def clone_name(connection: str, local: IPAddress, remote: IPAddress) -> str:
    """Name of the clone of a connection for an address pair."""
    return SEPARATOR.join((connection, str(local), str(remote)))


def clone_pair(connection: str, name: str) -> tuple[IPAddress, IPAddress] | None:
    """The address pair (local, remote) if `name` is a clone of `connection`, else None."""
    original, *addresses = name.rsplit(SEPARATOR, 2)
    if original != connection or len(addresses) != 2:
        return None
    try:
        local, remote = map(ip_address, addresses)
    except ValueError:
        return None
    return local, remote


def original_name(name: str) -> str:
    """The connection that `name` is a clone of, or `name` itself."""
    original = name.rsplit(SEPARATOR, 2)[0]
    return name if clone_pair(original, name) is None else original


def is_of(connection: str, name: str) -> bool:
    """Whether `name` is this connection or a clone of it."""
    return name == connection or clone_pair(connection, name) is not None

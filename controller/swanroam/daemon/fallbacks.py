"""The addresses at which a peer may be found, resolved anew each time they are asked for.

A resolver can take half a minute over a name, and can't be interrupted. So each name is looked up in a thread of its
own that nobody waits for: neither the event loop, nor who asked (beyond a time limit), nor the end of the daemon.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, SOCK_DGRAM, AddressFamily, getaddrinfo
from typing import Any

import structlog

from swanroam.config import PeerSettings, host
from swanroam.ike.definitions import DefinitionError, DefinitionsProvider
from swanroam.protocol.events import FallbacksResolved, ResolveFallbacks
from swanroam.protocol.messages import IPAddress

log = structlog.get_logger("swanroam")

RESOLVE_LIMIT = 5.0
"""Seconds that a name may take."""
MAX_ADDRESSES = 64
"""What names lead to besides is left out: each address is looked up in the routing tables."""


class Fallbacks:
    """`definitions` gives the administrator's connections, `lookup` is getaddrinfo(3)."""

    def __init__(self, definitions: DefinitionsProvider, lookup: Callable[..., list[Any]] = getaddrinfo) -> None:
        self._definitions = definitions
        self._lookup = lookup

    async def resolve(self, peer: PeerSettings, action: ResolveFallbacks) -> FallbacksResolved:
        """Addresses of one IP version, in the configured order. What can't be resolved is logged and left out."""
        entries = await self._entries(peer)
        answers = await asyncio.gather(*(self._addresses(peer, entry, action.version) for entry in entries))
        addresses = dict.fromkeys(address for answer in answers for address in answer)
        return FallbacksResolved(tuple(addresses)[:MAX_ADDRESSES])

    async def _entries(self, peer: PeerSettings) -> tuple[IPAddress | str, ...]:
        if peer.fallback is not None:
            return peer.fallback
        try:
            texts = (await self._definitions()).connection(peer.connection).remote_addrs
        except DefinitionError as error:
            log.warning("connections_not_read", error=str(error))
            return ()
        return tuple(entry for text in texts if (entry := host(text)) is not None)  # not %any, ranges, subnets

    async def _addresses(self, peer: PeerSettings, entry: IPAddress | str, version: int) -> list[IPAddress]:
        if not isinstance(entry, str):
            return [entry] if entry.version == version else []
        try:
            async with asyncio.timeout(RESOLVE_LIMIT):
                return await self._in_a_thread(entry, AF_INET if version == 4 else AF_INET6)
        except TimeoutError:
            problem = f"no answer within {RESOLVE_LIMIT:g} s"
        except (OSError, UnicodeError) as error:
            problem = str(error)
        log.warning("fallback_not_resolved", peer=peer.name, name=entry, error=problem)
        return []

    async def _in_a_thread(self, name: str, family: AddressFamily) -> list[IPAddress]:
        """Raises what getaddrinfo raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[IPAddress]] = loop.create_future()

        def settle(found: list[Any] | Exception) -> None:
            if answer.done():
                return
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result([ip_address(entry[4][0].partition("%")[0]) for entry in found])

        def look_up() -> None:
            found: list[Any] | Exception
            try:
                found = self._lookup(name, None, family=family, type=SOCK_DGRAM)
            except (OSError, UnicodeError) as error:
                found = error
            with suppress(RuntimeError):  # the daemon has ended meanwhile
                loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=look_up, name=f"resolve {name}", daemon=True).start()
        return await answer

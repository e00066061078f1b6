"""Managers of the local network, by DNS service discovery over multicast DNS (RFC 6762, RFC 6763).

Nothing found here is trusted: any host of the network may answer, so whoever dials such an address
compares its root with the join token's. zeroconf is only imported by those who announce or look.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from swarmlet.core.errors import UnavailableError
from swarmlet.model.address import Address
from swarmlet.wire.messages import PROTOCOL_VERSION

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

SERVICE_TYPE: Final = "_swarmlet._tcp.local."
FIND_TIMEOUT_S: Final = 3.0
SETTLE_S: Final = 0.7  # after the last new responder; a record may be withheld 0.12 s (RFC 6762 §6)
ASK_TIMEOUT_MS: Final = 1_000  # for one responder's addresses
RESPONDERS_MAX: Final = 32
ADDRESSES_MAX: Final = 64


@asynccontextmanager
async def announce(
    addresses: Sequence[str],
    port: int,
    *,
    cluster_id: str,
    node_id: str,
    interfaces: Sequence[str] = (),
) -> AsyncIterator[None]:
    """While inside, answer for this manager at these IP addresses; a goodbye goes out at the end.

    `interfaces`: addresses of those to answer on, all where none is given. Raises UnavailableError
    where multicast DNS cannot be spoken.
    """
    from zeroconf import Error as ZeroconfError
    from zeroconf.asyncio import AsyncServiceInfo

    service = AsyncServiceInfo(
        SERVICE_TYPE,
        f"{node_id}.{SERVICE_TYPE}",
        port=port,
        parsed_addresses=list(addresses),
        properties={"cluster": cluster_id, "protocol": str(PROTOCOL_VERSION)},
        server=f"{node_id}.local.",
    )
    zeroconf = _opened(interfaces)
    try:
        try:
            await (await zeroconf.async_register_service(service))
        except (ZeroconfError, OSError) as error:
            raise _mute(error) from error
        yield
    finally:
        await zeroconf.async_close()


async def find(timeout_s: float = FIND_TIMEOUT_S, *, interfaces: Sequence[str] = ()) -> list[str]:
    """Where anything answers that calls itself a manager: host:port, sorted, each once.

    Ends early once responders were found and no further one for a moment. Raises UnavailableError
    where multicast DNS cannot be spoken.
    """
    zeroconf = _opened(interfaces)
    try:
        return await _addresses(zeroconf, await _responders(zeroconf, timeout_s))
    finally:
        await zeroconf.async_close()


async def _responders(zeroconf: "AsyncZeroconf", timeout_s: float) -> list[str]:
    """Names of instances, in the order they answered."""
    from zeroconf.asyncio import AsyncServiceBrowser

    names: dict[str, None] = {}
    news = asyncio.Event()

    def changed(*, name: str, **_: object) -> None:
        if name not in names and len(names) < RESPONDERS_MAX:
            names[name] = None
            news.set()

    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[changed])
    try:
        async with asyncio.timeout(timeout_s):
            await news.wait()
            while news.is_set():
                news.clear()
                await _quiet(news)
    except TimeoutError:
        pass  # whoever has not answered by now is not waited for
    finally:
        await browser.async_cancel()
    return list(names)


async def _quiet(news: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(SETTLE_S):
            await news.wait()
    except TimeoutError:
        return


async def _addresses(zeroconf: "AsyncZeroconf", names: Sequence[str]) -> list[str]:
    found: set[str] = set()

    async def resolve(name: str) -> None:
        service = await zeroconf.async_get_service_info(SERVICE_TYPE, name, ASK_TIMEOUT_MS)
        for host in service.parsed_scoped_addresses() if service else ():
            if service and service.port and _is_dialable(host):
                found.add(str(Address(host=host, port=service.port)))

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(resolve(name))
    return sorted(found)[:ADDRESSES_MAX]


def _is_dialable(host: str) -> bool:
    """Link-local addresses are left out: they mean nothing without the interface."""
    address = ip_address(host)
    return not (address.is_link_local or address.is_multicast or address.is_unspecified)


def _opened(interfaces: Sequence[str]) -> "AsyncZeroconf":
    """On IPv4 and IPv6, or IPv4 alone where the host has no other."""
    from zeroconf import InterfaceChoice, IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    try:
        if interfaces:
            return AsyncZeroconf(interfaces=list(interfaces))
        try:
            return AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.All)
        except OSError:
            return AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)
    except (OSError, RuntimeError) as error:  # RuntimeError: no interface at all
        raise _mute(error) from error


def _mute(error: Exception) -> UnavailableError:
    return UnavailableError(
        "Managers cannot be announced or looked for on the local network: "
        f"{str(error) or type(error).__name__}",
        remedy="Give a manager's address instead.",
    )

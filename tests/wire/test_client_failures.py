"""Whatever stands at an address instead of a manager: each case has its sentence."""

import asyncio
import base64
import errno
import functools
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver
from aiohttp.client_reqrep import ConnectionKey

from swarmlet.core.errors import InvalidArgumentError, UnauthorizedError, UnavailableError
from swarmlet.core.limits import NS_PER_S
from swarmlet.wire import answers, calls, client, pools
from swarmlet.wire.client import TlsLink
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.failures import failure
from swarmlet.wire.tls import server_context
from tests.wire.identities import SwarmCA
from tests.wire.port_world import on_both_loops

HOUR_MS = 3_600_000
NOW_MS = int(time.time() * 1000)
OURS, OTHERS = SwarmCA(NOW_MS - 48 * HOUR_MS, 1), SwarmCA(NOW_MS - 48 * HOUR_MS, 2)
NODE = OURS.credentials("node1")
MANAGER = OURS.credentials("manager1", "manager")

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(serve: Serve, credentials: Credentials | None = None) -> AsyncIterator[str]:
    """Something that listens: the address, and what it does with each connection."""

    async def handle(reader, writer):
        try:
            await serve(reader, writer)
        except OSError:
            return
        finally:
            writer.transport.abort()

    context = None if credentials is None else server_context(credentials)
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"127.0.0.1:{port}"
    finally:
        server.close()
        await asyncio.sleep(0.01)


def says(data: bytes) -> Serve:
    async def serve(reader, writer):
        await reader.read(1)
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.05)

    return serve


async def is_silent(reader, writer):
    await asyncio.sleep(1)


async def hangs_up(reader, writer):
    return


async def refuses_certificates(reader, writer):
    """As a server does that sends its alert; asyncio's servers keep theirs to themselves."""
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = server_context(MANAGER).wrap_bio(received, sent, server_side=True)
    is_over = False
    while not is_over:
        received.write(await reader.read(65_536))
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            is_over = True
        writer.write(sent.read())
    await asyncio.sleep(0.1)


async def dribbles(reader, writer):
    writer.write(OK + b"Content-Length: 1000\r\n\r\n")
    for _ in range(100):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


OK = b"HTTP/1.1 200 OK\r\nSwarmlet-Protocol: 1\r\n"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
MISSING = b"HTTP/1.1 404 Not Found\r\nSwarmlet-Protocol: 1\r\nContent-Length: 0\r\n\r\n"
ALERT_VERSION = b"\x15\x03\x01\x00\x02\x02\x46"
NESTED = OK + b'Content-Length: 60009\r\n\r\n{"more":[' + b"[" * 60_000
NESTED_PROBLEM = (
    b"HTTP/1.1 500 Oh\r\nSwarmlet-Protocol: 1\r\nSwarmlet-Problem: "
    + base64.b64encode(b'{"more":' + b"[" * 5_900)
    + b"\r\nContent-Length: 0\r\n\r\n"
)
HUGE = OK + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000

NO_MANAGER = "is no swarmlet manager: "
PLAIN = [
    (says(b"SSH-2.0-OpenSSH_9.2\r\n"), NO_MANAGER + "it does not speak TLS"),
    (says(PAGE), NO_MANAGER + "it does not speak TLS"),
    (says(ALERT_VERSION), NO_MANAGER + "it speaks no TLS of version 1.2 or newer"),
    (hangs_up, "closed the connection without an answer"),
    (is_silent, "did not answer in time: no connection came about"),
]
AS_A_MANAGER = [
    (says(PAGE), NO_MANAGER + "it answers, but not as a manager does"),
    (says(MISSING), NO_MANAGER + "it answers with HTTP status 404"),
    (says(OK + b"Content-Length: 2\r\n\r\nhi"), NO_MANAGER + "its answer cannot be read"),
    (says(OK + b"Content-Length: 2\r\n\r\n{}"), NO_MANAGER + "its answer cannot be read"),
    (says(NESTED), NO_MANAGER + "its answer cannot be read"),
    (says(NESTED_PROBLEM), NO_MANAGER + "it answers with HTTP status 500"),
    (says(b"\x00\x01garbage\r\n\r\n"), NO_MANAGER + "what it answers is not HTTP"),
    (says(HUGE), NO_MANAGER + "its answer is larger than 256 KiB"),
    (says(OK + b"Content-Length: 9\r\n\r\n{}"), "closed the connection without an answer"),
    (hangs_up, "closed the connection without an answer"),
    (is_silent, "did not answer in time"),
    (dribbles, "did not answer in time"),
]
CERTIFICATES = [
    (OTHERS.credentials("manager1", "manager"), "does not belong to this swarm"),
    (OURS.credentials("worker1", "worker"), "belongs to this swarm, but is no manager"),
    (
        OURS.credentials("m", "manager", now_ms=NOW_MS - 9 * HOUR_MS, expiry_ns=3_600 * NS_PER_S),
        "has expired, by this host's clock",
    ),
    (
        OURS.credentials("m", "manager", now_ms=NOW_MS + 9 * HOUR_MS),
        "is not valid yet, by this host's clock",
    ),
]


@pytest.fixture
def link(monkeypatch) -> TlsLink:
    monkeypatch.setattr(pools, "DIAL_TIMEOUT_S", 0.3)
    monkeypatch.setattr(calls, "DIAL_TIMEOUT_S", 0.3)
    monkeypatch.setattr(client, "POLL_TIMEOUT_S", 0.3)
    return TlsLink()


def with_link(test):
    """What TLS and sockets say is not the same on both loops; the sentences are."""

    @functools.wraps(test)
    async def closing(link, **arguments):
        try:
            await test(link, **arguments)
        finally:
            await link.close()

    return on_both_loops(closing)


async def refused(kind, link: TlsLink, addr: str, credentials: Credentials = NODE) -> str:
    with pytest.raises(kind) as raised:
        await link.certificate_status(addr, "node1", Credentials(root_pem=credentials.root_pem))
    assert addr in raised.value.message
    assert raised.value.remedy
    with pytest.raises(kind) as again:
        await link.open_session(addr, credentials)
    assert again.value.message.partition(":")[0] == raised.value.message.partition(":")[0]
    return raised.value.message


@pytest.mark.parametrize(("serve", "sentence"), PLAIN)
@with_link
async def test_what_speaks_no_tls_is_told_apart(link, serve, sentence):
    async with peer(serve) as addr:
        assert sentence in await refused(UnavailableError, link, addr)


@pytest.mark.parametrize(("serve", "sentence"), AS_A_MANAGER)
@with_link
async def test_what_answers_otherwise_than_a_manager_is_told_apart(link, serve, sentence):
    async with peer(serve, MANAGER) as addr:
        with pytest.raises(UnavailableError) as raised:
            await link.certificate_status(addr, "node1", Credentials(root_pem=NODE.root_pem))
        assert sentence in raised.value.message
        assert addr in raised.value.message
        assert raised.value.remedy


@pytest.mark.parametrize(("shown", "sentence"), CERTIFICATES)
@with_link
async def test_whoever_shows_another_certificate_is_told_apart(link, shown, sentence):
    async with peer(says(PAGE), shown) as addr:
        assert sentence in await refused(UnauthorizedError, link, addr)


@with_link
async def test_a_node_that_is_not_taken_for_one_is_told_so(link):
    stranger = OTHERS.credentials("node1")
    credentials = Credentials(
        root_pem=OURS.root_pem, chain_pem=stranger.chain_pem, key_pem=stranger.key_pem
    )
    async with peer(refuses_certificates) as addr:
        with pytest.raises(UnauthorizedError) as raised:
            await link.open_session(addr, credentials)
    assert raised.value.message == f"The manager at {addr} does not accept this node's certificate"
    assert "may have been removed" in raised.value.remedy


@with_link
async def test_a_manager_two_releases_behind_is_told_apart(link, monkeypatch):
    monkeypatch.setattr(answers, "PROTOCOL_VERSION", 3)
    async with peer(says(OK + b"Content-Length: 0\r\n\r\n"), MANAGER) as addr:
        assert "speaks protocol 1, which is too old" in await refused(UnavailableError, link, addr)


@with_link
async def test_a_closed_port_is_told_apart(link):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        addr = f"127.0.0.1:{taken.getsockname()[1]}"
        message = await refused(UnavailableError, link, addr)
    assert message == f"Nothing listens at {addr}: the connection was refused"


@with_link
async def test_no_way_there_is_told_apart(link):
    addr = "[fd00:dead::1]:2377"
    message = await refused(UnavailableError, link, addr)
    assert message.startswith((f"{addr} cannot be reached: ", f"{addr} did not answer in time"))


@pytest.mark.parametrize(
    ("number", "text", "says"),
    [
        (errno.EHOSTUNREACH, "Connect call failed ('10.0.0.1', 2377)", "no route to host"),
        (None, "Multiple exceptions: [Errno 111] ..., [Errno 113] ...", "none of its addresses"),
    ],
)
def test_no_way_there_is_said_in_no_librarys_words(number, text, says):
    reason = OSError(text) if number is None else OSError(number, text)
    key = ConnectionKey("m", 2377, True, True, None, None, None)
    message = failure("m:2377", aiohttp.ClientConnectorError(key, reason)).message
    assert message.startswith(f"m:2377 cannot be reached: {says}")
    assert text not in message


@with_link
async def test_whoever_calls_a_closed_port_by_ipv6_is_told_how_managers_listen(link):
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        addr = f"[::1]:{taken.getsockname()[1]}"
        with pytest.raises(UnavailableError) as raised:
            await link.hello(addr)
    assert "--listen-addr [::]:2377" in raised.value.remedy


class Nobody(AbstractResolver):
    async def resolve(self, host, port=0, family=socket.AF_INET):
        raise OSError(None, "Name or service not known")

    async def close(self):
        return


@on_both_loops
async def test_a_name_nobody_knows_is_told_apart():
    link = TlsLink(Nobody())
    message = await refused(UnavailableError, link, "manager.example:2377")
    assert message == "The host name in manager.example:2377 cannot be resolved"
    await link.close()


@pytest.mark.parametrize(
    "addr", ["", "host:port", "host:0", "[::1", "a b:2377", "a/b:2377", "a..b", "a" * 64]
)
@with_link
async def test_what_is_no_address_is_said_so(link, addr):
    with pytest.raises(InvalidArgumentError, match="invalid manager address"):
        await link.hello(addr)


@with_link
async def test_credentials_that_cannot_be_used_are_said_so(link):
    broken = Credentials(root_pem=NODE.root_pem, chain_pem=NODE.chain_pem, key_pem=b"no key")
    with pytest.raises(UnauthorizedError, match="cannot be used for TLS"):
        await link.open_session("127.0.0.1:1", broken)

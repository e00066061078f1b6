"""Who and what the node port refuses, and that it serves others meanwhile; on both loops."""

import asyncio
import base64
import contextlib
import os
import resource
import socket
import struct
import time

import pytest

from swarmlet.core.ids import NodeID
from swarmlet.wire import bodies, server
from swarmlet.wire.forward import FORWARDED_HEADER, PROTOCOL_HEADER, Origin, encode_origin
from swarmlet.wire.gate import GateLimits
from swarmlet.wire.routes import API, CERTIFICATE, JOIN, LOGS, MANAGERS, RENEW, ROUTES, SESSION
from swarmlet.wire.server import REFUSED_MAX
from tests.wire.port_world import (
    JOIN_BODY,
    MANAGER,
    OTHERS,
    OURS,
    RENEW_BODY,
    STRANGER,
    WORKER,
    ask,
    code,
    connect,
    expired,
    head,
    not_begun,
    on_both_loops,
    opened,
    other_cluster,
    raw,
    raw_socket,
    read_answer,
    self_signed,
    trusting_us,
    until_closed,
)

HURRIED = GateLimits(handshake_s=0.4, first_request_s=0.4)
HELLO_START = b"\x16\x03\x01\x02\x00\x01\x00"
PATHS = {
    SESSION: ("GET", "/node/v1/session", b""),
    LOGS: ("GET", "/node/v1/logs/s1", b""),
    API: ("GET", "/node/v1/api/nodes", b""),
    JOIN: ("POST", JOIN.path, JOIN_BODY),
    RENEW: ("POST", RENEW.path, RENEW_BODY),
    CERTIFICATE: ("GET", "/node/v1/certificates/w1", b""),
}


def call(route):
    return PATHS.get(route, (route.method, route.path, b""))


# Who may call what


@on_both_loops
async def test_port_lets_each_role_into_its_routes_and_no_others():
    certificates = {
        "": [STRANGER],
        "worker": [WORKER, expired("w1")],
        "manager": [OURS.credentials("m2", "manager"), expired("m2", "manager")],
    }
    async with opened() as world:
        for route in ROUTES:
            for role, shown in certificates.items():
                for is_expired, credentials in enumerate(shown):
                    status, body = await ask(world.addr, credentials, *call(route))
                    may = role in route.roles and (not is_expired or route.allows_expired)
                    case = (route.name, role, is_expired, status, body)
                    assert (status not in (0, 401, 403)) == may, case
                    assert may or code(body) in ("unauthorized", "forbidden"), case


REFUSED = {
    "no certificate": (STRANGER, 401),
    "a certificate signed by itself": (self_signed(), 0),
    "one of another root": (trusting_us(OTHERS.credentials("w1")), 0),
    "one of another root, expired": (
        trusting_us(OTHERS.credentials("w1", now_ms=OTHERS.now_ms - 10**9, expiry_ns=0)),
        0,
    ),
    "one of another swarm with the same root": (other_cluster("w1"), 401),
    "an expired one": (expired("w1"), 401),
    "one that is not valid yet": (not_begun("w1"), 401),
    "one of a removed node": (OURS.credentials("removed"), 403),
}


@pytest.mark.parametrize("case", REFUSED)
@on_both_loops
async def test_port_refuses_a_session_with(case):
    credentials, expected = REFUSED[case]
    async with opened() as world:
        status, body = await ask(world.addr, credentials, *call(SESSION))
        assert status == expected, body
        assert (await ask(world.addr, WORKER))[0] == 200
        assert world.service.calls == []


@pytest.mark.parametrize("case", sorted(REFUSED.keys() - {"no certificate", "an expired one"}))
@on_both_loops
async def test_port_refuses_a_renewal_with(case):
    credentials, expected = REFUSED[case]
    async with opened() as world:
        assert (await ask(world.addr, credentials, *call(RENEW)))[0] == expected
        assert world.service.calls == []


@on_both_loops
async def test_port_refuses_a_demoted_managers_certificate_on_every_route_of_managers():
    demoted = OURS.credentials("demoted", "manager")
    async with opened() as world:
        for route in ROUTES:
            status, _ = await ask(world.addr, demoted, *call(route))
            assert (status == 403) == (route.roles == MANAGERS), route.name


@on_both_loops
async def test_client_refuses_a_workers_certificate_presented_by_a_server():
    async with opened(OURS.credentials("w9")) as world:
        status, why = await ask(world.addr, WORKER)
        assert status == 0
        assert b"Hostname mismatch" in why


@on_both_loops
async def test_port_answers_nothing_that_is_not_in_the_table():
    async with opened() as world:
        for method, path in (
            ("GET", "/"),
            ("GET", "/node/v1"),
            ("POST", "/node/v1/hello"),
            ("GET", "/node/v1/hello/"),
            ("GET", "/node/v1/%68ello"),
            ("GET", "/node/v1/certificates/"),
            ("GET", "/node/v1/certificates/a/b"),
            ("GET", "/node/v1/apis"),
        ):
            status, body = await ask(world.addr, MANAGER, method, path)
            assert (status, code(body)) == (404, "not-found"), path


# Protocol, forwarding


@pytest.mark.parametrize(
    ("header", "status"), [("1", 200), ("2", 200), ("0", 200), ("3", 400), ("", 400), ("x", 400)]
)
@on_both_loops
async def test_port_understands_a_protocol_one_apart_and_no_other(header, status):
    async with opened() as world:
        headers = {PROTOCOL_HEADER: header}
        assert (await ask(world.addr, WORKER, path="/node/v1/root", headers=headers))[0] == status
        assert (await ask(world.addr, WORKER, headers=headers))[0] == 200  # hello tells anybody


@on_both_loops
async def test_port_believes_a_forwarded_caller_of_managers_alone():
    boss = Origin(identity=OURS.own("m1", "manager").identity, source="10.1.1.1")
    lies = {FORWARDED_HEADER: encode_origin(boss)}
    async with opened() as world:
        for credentials in (
            STRANGER,
            WORKER,
            OURS.credentials("demoted", "manager"),
            expired("m2", "manager"),
        ):
            status, _ = await ask(world.addr, credentials, *call(API), headers=lies)
            assert status in (401, 403)
        # It might renew itself, but nobody else: it would be renewed as whom it names.
        old = expired("m2", "manager")
        for route in (JOIN, RENEW, CERTIFICATE):
            assert (await ask(world.addr, old, *call(route), headers=lies))[0] == 401, route.name
        assert world.service.calls == []
        manager = OURS.credentials("m2", "manager")
        assert (await ask(world.addr, manager, *call(API), headers=lies))[0] == 200
        assert (await ask(world.addr, manager, *call(SESSION), headers=lies))[0] == 400
        garbled = {FORWARDED_HEADER: "%%%"}
        assert (await ask(world.addr, manager, *call(API), headers=garbled))[0] == 400


@on_both_loops
async def test_port_judges_the_caller_a_manager_speaks_for():
    worker = Origin(identity=OURS.own("w1").identity, source="10.1.1.1")
    gone = Origin(identity=OURS.own("removed", "manager").identity, source="10.1.1.1")
    nobody = Origin(identity=None, source="10.1.1.1")
    async with opened() as world:
        manager = OURS.credentials("m2", "manager")
        for origin, route, expected in (
            (worker, API, 403),
            (gone, API, 403),
            (gone, RENEW, 403),
            (nobody, API, 401),
            (nobody, JOIN, 200),
            (worker, RENEW, 200),
        ):
            headers = {FORWARDED_HEADER: encode_origin(origin)}
            status, _ = await ask(world.addr, manager, *call(route), headers=headers)
            assert status == expected, (origin, route.name)
        assert world.service.calls == [("request", None, "10.1.1.1"), ("request", "w1", "10.1.1.1")]


# What is no request


def hello_of(version):
    """A whole hello by hand, for no library offers TLS 1.1 any more; a server of any version since
    1.0 finds a suite and a curve in it."""
    suites = bytes.fromhex("c02bc009c00a")
    extensions = bytes.fromhex("000a000400020017 000b00020100 000d000400020403")
    body = version + bytes(32) + b"\0" + struct.pack(">H", len(suites)) + suites + b"\x01\0"
    body += struct.pack(">H", len(extensions)) + extensions
    handshake = b"\x01" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack(">H", len(handshake)) + handshake


@on_both_loops
async def test_port_answers_a_hello_of_tls_1_2_by_hand():
    """The same hello of TLS 1.1 is refused for its version, then, and for nothing else."""
    async with opened() as world:
        reader, writer = await raw(world.addr, hello_of(b"\x03\x03"))
        async with asyncio.timeout(5):
            assert (await reader.readexactly(6))[::5] == b"\x16\x02"  # a server's hello
        writer.transport.abort()


@pytest.mark.parametrize(
    ("data", "limit_s"),
    [
        (b"\0garbage\r\n\r\n" * 4, 0.3),
        (b"GET / HTTP/1.1\r\n\r\n", 0.3),
        (b"\x16\x02\x00", 0.3),
        (hello_of(b"\x03\x02"), 0.3),
        (b"\x16", 2),
        (HELLO_START, 2),
        (HELLO_START + b"\xff" * 600, 2),
    ],
    ids=["garbage", "http", "ssl 2", "tls 1.1", "a byte", "half a hello", "a hello of garbage"],
)
@on_both_loops
async def test_port_closes_a_connection_that_begins_with(data, limit_s):
    async with opened(limits=HURRIED) as world:
        reader, writer = await raw(world.addr, data)
        said = b""
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                said = await reader.read(100)
        writer.transport.abort()
        assert time.monotonic() - began < limit_s
        assert said[:1] in (b"", b"\x15")  # an alert at most, never a server's hello
        await world.settled(unfinished=0, connections=0)
        assert world.port.gauges()["swarmlet_port_failed_handshakes_total"] == 1


@pytest.mark.parametrize(
    "data", [b"", b"GET /node/v1/hello HTTP/1.1\r\nHo"], ids=["nothing", "half"]
)
@on_both_loops
async def test_port_closes_a_connection_that_sends_of_its_first_request(data):
    async with opened(limits=HURRIED) as world:
        reader, writer = await connect(world.addr)
        writer.write(data)
        assert 0.2 < await until_closed(reader) < 2
        writer.transport.abort()
        await world.settled(unfinished=0, connections=0)


@on_both_loops
async def test_port_closes_a_connection_whose_head_has_no_end():
    async with opened() as world:
        reader, writer = await connect(world.addr)
        writer.write(b"GET /node/v1/hello HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(100):
                writer.write(b"X%d: " % number + b"a" * 4000 + b"\r\n")
                await writer.drain()
        assert await until_closed(reader) < 2
        writer.transport.abort()
        await world.settled(connections=0)


@on_both_loops
async def test_port_answers_garbage_inside_tls_and_writes_no_traceback(caplog):
    async with opened() as world:
        reader, writer = await connect(world.addr)
        writer.write(b"\0\0garbage\r\n\r\n")
        assert (await reader.read(100)).startswith(b"HTTP/1.0 400")
        writer.transport.abort()
        await world.settled(connections=0)
    assert not [record for record in caplog.records if record.exc_info]


@on_both_loops
async def test_port_refuses_what_is_nested_without_end_and_writes_no_traceback(caplog):
    deep = b'{"csr":"x","token":"t","more":' + b"[" * 60_000 + b"]" * 60_000 + b"}"
    assert len(deep) > bodies.BODY_SIZE_MAX_B  # whole; its first half would do
    header = base64.b64encode(b'{"source":"x","more":' + b"[" * 5_900)
    async with opened() as world:
        body = deep[: bodies.BODY_SIZE_MAX_B]
        assert (await ask(world.addr, STRANGER, "POST", JOIN.path, body))[0] == 400
        headers = {FORWARDED_HEADER: header.decode()}
        manager = OURS.credentials("m2", "manager")
        assert (await ask(world.addr, manager, *call(API), headers=headers))[0] == 400
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("credentials", [STRANGER, WORKER], ids=["a stranger", "a node"])
@on_both_loops
async def test_port_gives_a_slow_body_up_of(credentials, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(server, "SHUTDOWN_TIMEOUT_S", 0.2)
    async with opened() as world:
        reader, writer = await connect(world.addr, credentials)
        path = JOIN.path if credentials is STRANGER else RENEW.path
        writer.write(head("POST", path, b"x" * 100) + b"{")
        async with asyncio.timeout(2):
            assert b" 408 " in await reader.readline()
        assert await until_closed(reader) < 1.5
        writer.transport.abort()


@on_both_loops
async def test_port_refuses_a_body_over_its_bound_before_and_while_it_comes():
    big = b"x" * (bodies.BODY_SIZE_MAX_B + 1)
    async with opened() as world:
        for path in (JOIN.path, RENEW.path):
            assert (await ask(world.addr, WORKER, "POST", path, big))[0] == 413
        reader, writer = await connect(world.addr)
        start = head("POST", JOIN.path).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        writer.write(start + b"20000\r\n" + b"x" * 0x20000)
        assert b" 413 " in await reader.readline()
        writer.transport.abort()
        status, body = await ask(world.addr, MANAGER, "POST", JOIN.path, b"{}")
        assert (status, code(body)) == (400, "invalid-argument")


# Floods


def resident_b():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def many_files():
    """Sockets to open: as many as this process may, 8,000 at most (both ends are in it)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 10_000 if hard == resource.RLIM_INFINITY else min(hard, 10_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    yield min(most - 1000, 8000) // 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def good_client_s(addr, source):
    began = time.monotonic()
    status, why = await ask(addr, WORKER, source=source)
    assert status == 200, why
    return time.monotonic() - began


@pytest.mark.parametrize("start", [b"", HELLO_START], ids=["silent", "half a hello"])
@on_both_loops
async def test_port_serves_others_beside_thousands_of_half_open_connections(start, many_files):
    async with opened() as world:
        await good_client_s(world.addr, "127.0.0.2")
        before_b, flood = resident_b(), []
        try:
            for number in range(many_files):
                flood.append(raw_socket(world.addr))
                if number % 100 == 99:
                    await asyncio.sleep(0)
            await asyncio.sleep(0.1)
            for client in flood:
                with contextlib.suppress(OSError):
                    client.send(start)
            await asyncio.sleep(0.3)
            assert world.port.gauges()["swarmlet_port_unfinished_handshakes"] <= 128
            assert await good_client_s(world.addr, "127.0.0.2") < 2
            assert resident_b() - before_b < 48 << 20
        finally:
            for client in flood:
                client.close()
        await world.settled(unfinished=0)
        assert await good_client_s(world.addr, "127.0.0.1") < 2


@on_both_loops
async def test_port_bounds_those_who_finish_the_handshake_and_say_nothing():
    limits = GateLimits(unfinished_per_source=4, handshake_s=0.5, first_request_s=30)
    async with opened(limits=limits) as world:
        silent = [await connect(world.addr) for _ in range(4)]
        await world.settled(connections=4, unfinished=4)
        assert (await ask(world.addr, STRANGER))[0] == 0
        assert (await ask(world.addr, STRANGER, source="127.0.0.2"))[0] == 200
        for _, writer in silent:
            writer.transport.abort()
        await world.settled(unfinished=0)
        assert (await ask(world.addr, STRANGER))[0] == 200


@on_both_loops
async def test_port_takes_all_of_an_address_that_come_at_once_one_after_the_other():
    async with opened(limits=GateLimits(unfinished_per_source=8)) as world:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(ask(world.addr, WORKER)) for _ in range(200)]
        assert [call.result()[0] for call in calls] == [200] * 200
        assert world.port.gauges()["swarmlet_port_refused_total"] == 0


@on_both_loops
async def test_port_turns_away_who_finds_no_place_to_wait():
    limits = GateLimits(unfinished_per_source=2, waiting=3, handshake_s=2)
    async with opened(limits=limits) as world:
        stalled = [await raw(world.addr, HELLO_START) for _ in range(8)]
        await world.settled(unfinished=2, refused=3)
        assert (await ask(world.addr, WORKER))[0] == 0
        assert (await ask(world.addr, WORKER, source="127.0.0.2"))[0] == 200
        for _, writer in stalled:
            writer.transport.abort()
        await world.settled(unfinished=0)
        assert (await ask(world.addr, WORKER))[0] == 200


@on_both_loops
async def test_port_tells_who_comes_when_it_is_full_and_keeps_room_for_nodes():
    limits = GateLimits(connections=REFUSED_MAX + 8)
    nodes = [WORKER, OURS.credentials("m2", "manager"), OURS.credentials("demoted"), MANAGER]
    async with opened(limits=limits) as world:
        sessions = [await world.link.open_session(world.addr, node) for node in nodes[:3] * 2]
        status, body = await ask(world.addr, STRANGER)
        assert (status, code(body)) == (503, "unavailable")
        assert (await ask(world.addr, MANAGER))[0] == 200
        sessions += [await world.link.open_session(world.addr, MANAGER) for _ in range(2)]
        assert (await ask(world.addr, MANAGER))[0] == 503
        for node_id in ("w1", "m1", "m2", "demoted"):
            world.port.close_node(NodeID(node_id))
        await world.settled(connections=0)
        assert (await ask(world.addr, STRANGER))[0] == 200
        assert len(sessions) == 8


@on_both_loops
async def test_port_gives_a_node_no_more_than_its_share_where_room_is_scarce():
    async with opened(limits=GateLimits(connections=REFUSED_MAX + 8)) as world:
        sessions = [await world.link.open_session(world.addr, WORKER) for _ in range(4)]
        assert (await ask(world.addr, WORKER))[0] == 503
        assert (await ask(world.addr, MANAGER))[0] == 200
        assert (await ask(world.addr, STRANGER))[0] == 200
        assert len(sessions) == 4


@on_both_loops
async def test_port_gives_an_address_of_strangers_no_more_than_its_share_where_room_is_scarce():
    async with opened(limits=GateLimits(connections=REFUSED_MAX + 8)) as world:
        slow = []
        for _ in range(4):
            _, writer = await connect(world.addr)
            writer.write(head("POST", JOIN.path, JOIN_BODY))
            slow.append(writer)
        await world.settled(connections=4, unfinished=0)
        assert (await ask(world.addr, STRANGER))[0] == 503
        assert (await ask(world.addr, STRANGER, source="127.0.0.3"))[0] == 200
        for writer in slow:
            writer.transport.abort()


@on_both_loops
async def test_port_ends_the_connection_of_a_node_that_it_refuses():
    async with opened() as world:
        reader, writer = await connect(world.addr, OURS.credentials("removed"))
        writer.write(head("GET", "/node/v1/hello"))
        assert (await read_answer(reader))[0] == 403
        assert await until_closed(reader, 2) < 2
        writer.transport.abort()


@on_both_loops
async def test_port_closes_in_the_middle_of_a_flood_without_a_trace(caplog):
    async with opened() as world:
        flood = [raw_socket(world.addr) for _ in range(600)]
        await asyncio.sleep(0.05)
        for client in flood:
            client.send(HELLO_START)
        for _ in range(10):  # some are in, some have just come, most wait
            await asyncio.sleep(0)
        assert 0 < world.port.gauges()["swarmlet_port_unfinished_handshakes"] < 128
    for client in flood:
        client.close()
    assert [record for record in caplog.records if record.exc_info] == []


@on_both_loops
async def test_port_without_file_descriptors_waits_and_says_so_once(caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with opened() as world:
        await good_client_s(world.addr, "127.0.0.1")
        await world.settled(connections=0)
        await asyncio.sleep(0.1)  # its descriptors are free again
        client, taken = socket.socket(), []
        client.setblocking(False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 20, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            await asyncio.get_running_loop().sock_connect(client, place(world.addr))
            client.send(HELLO_START[:1])
            began_s = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - began_s < 0.25
            assert world.port.gauges()["swarmlet_port_unfinished_handshakes"] == 0
        finally:
            for each in taken:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await world.settled(unfinished=1)
        client.close()
        await good_client_s(world.addr, "127.0.0.1")
    assert [record.message for record in caplog.records].count("port.accept_failed") == 1


def place(addr):
    host, _, port = addr.rpartition(":")
    return host, int(port)

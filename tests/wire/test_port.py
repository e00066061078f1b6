"""The node port while it serves: sessions, forwarding, what is replaced and what ends; on both
loops."""

import asyncio
import contextlib
import socket
import struct
import time

import aiohttp
import msgspec
import pytest

from swarmlet.ca.root import Signer, new_root
from swarmlet.ca.rotation import cross_sign
from swarmlet.core.errors import FailedPreconditionError, NotLeaderError, UnavailableError
from swarmlet.core.limits import FRAME_SIZE_MAX_B
from swarmlet.model.address import Address
from swarmlet.wire import server
from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.forward import PROTOCOL_HEADER
from swarmlet.wire.gate import listen
from swarmlet.wire.keepalive import SILENCE_TIMEOUT_S
from swarmlet.wire.messages import (
    PROTOCOL_VERSION,
    Assignments,
    Heartbeat,
    Item,
    LogBatch,
    LogLine,
    StatusAck,
)
from swarmlet.wire.routes import API, CERTIFICATE, JOIN, RENEW
from swarmlet.wire.tls import BUFFER_SIZE_B, MANAGER_NAME, client_context, verified_chain
from tests.wire.identities import SwarmCA
from tests.wire.port_world import (
    HOUR_MS,
    HOUR_NS,
    JOIN_BODY,
    MANAGER,
    NOW_MS,
    OURS,
    RENEW_BODY,
    STRANGER,
    WORKER,
    ask,
    connect,
    expired,
    head,
    on_both_loops,
    opened,
    read_answer,
    until_closed,
)

OTHER_MANAGER = OURS.credentials("m2", "manager")


async def closed(channel):
    """Seconds until the other end is gone; everything before is read."""
    began = time.monotonic()
    with contextlib.suppress(ChannelClosedError):
        async with asyncio.timeout(5):
            while True:
                await channel.receive()
    return time.monotonic() - began


async def send_for_ever(channel):
    while True:
        await channel.send(batch(1_000_000))


def batch(size_b):
    item = Item(kind="x", id="", body=bytes(size_b))
    return Assignments(is_complete=True, applies_to=0, results_in=1, put=(item,))


# Sessions


@on_both_loops
async def test_session_carries_messages_of_every_size_both_ways():
    async with opened() as world:
        channel = await world.link.open_session(world.addr, WORKER)
        for message in (Heartbeat(), batch(100_000), batch(FRAME_SIZE_MAX_B - 100)):
            await channel.send(message)
            assert await channel.receive() == message
        assert world.service.calls == [("session", "w1", "127.0.0.1")]


@on_both_loops
async def test_session_that_belongs_to_another_manager_is_refused_with_its_address():
    async with opened() as world:
        with pytest.raises(NotLeaderError) as refused:
            await world.link.open_session(world.addr, OURS.credentials("w2"))
        assert refused.value.managers == ("10.0.0.9:2377",)


@on_both_loops
async def test_session_waits_with_sending_while_the_other_side_is_slow():
    async with opened() as world:
        channel = await world.link.open_session(world.addr, WORKER)
        with pytest.raises(TimeoutError):  # the echoes are not read, so the server stops reading
            await asyncio.wait_for(send_for_ever(channel), 1)
        assert await channel.receive() == batch(1_000_000)


@on_both_loops
async def test_session_can_be_read_to_its_end_after_the_other_side_closed():
    async with opened() as world:

        async def serve_session(channel, _peer, _source):
            await channel.receive()
            for number in range(50):
                await channel.send(StatusAck(number=number))
            channel.close()

        world.service.serve_session = serve_session
        channel = await world.link.open_session(world.addr, WORKER)
        await channel.send(Heartbeat())
        await asyncio.sleep(0.1)
        assert [(await channel.receive()).number for _ in range(50)] == list(range(50))
        assert await closed(channel) < 1


@on_both_loops
async def test_port_reads_a_session_to_its_end_after_the_agent_closed():
    read = []
    async with opened() as world:
        done = asyncio.Event()

        async def serve_session(channel, _peer, _source):
            with contextlib.suppress(ChannelClosedError):
                while True:
                    read.append((await channel.receive()).number)
            done.set()

        world.service.serve_session = serve_session
        channel = await world.link.open_session(world.addr, WORKER)
        for number in range(50):
            await channel.send(StatusAck(number=number))
        channel.close()
        with pytest.raises(ChannelClosedError):
            await channel.send(Heartbeat())
        async with asyncio.timeout(3):
            await done.wait()
        assert read == list(range(50))


@on_both_loops
async def test_session_whose_service_fails_ends_and_nothing_else_does(caplog):
    async with opened() as world:

        async def serve_session(channel, _peer, _source):
            await channel.receive()
            raise UnavailableError("no more")

        world.service.serve_session = serve_session
        channel = await world.link.open_session(world.addr, WORKER)
        await channel.send(Heartbeat())
        assert await closed(channel) < 2
        assert (await ask(world.addr, WORKER))[0] == 200
    assert not [record for record in caplog.records if record.exc_info]


def frame(opcode, data):
    """As a client sends it: masked, with a mask of zeros."""
    return bytes([0x80 | opcode, 0xFE]) + struct.pack(">H", len(data)) + bytes(4) + data


BAD_FRAMES = {
    "text": frame(1, b"hello"),
    "no message": frame(2, b"\xc1\xff\xff"),
    "a message nobody knows": frame(2, msgspec.msgpack.encode(["Nobody", 1])),
    "a message of the wrong type": frame(2, msgspec.msgpack.encode(["StatusAck", "one"])),
    "words that are none": frame(
        2, msgspec.msgpack.encode(["Condition", "xx"]).replace(b"xx", b"\xff\xfe")
    ),
    "no end of nesting": frame(2, b"\x93\xa9Condition\xa0" + b"\x91" * 60_000),
    "a name that fills the log": frame(2, msgspec.msgpack.encode(["N" * 60_000])),
    "an unknown opcode": frame(7, b""),
    "a frame too large": b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
@on_both_loops
async def test_session_ends_where_its_agent_sends(case, caplog):
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    async with opened() as world:
        reader, writer = await connect(world.addr, WORKER)
        writer.write(head("GET", "/node/v1/session", headers=upgrade))
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(BAD_FRAMES[case])
        assert await until_closed(reader) < 2
        writer.transport.abort()
        await world.settled(connections=0)
    assert not [record for record in caplog.records if record.exc_info]
    assert all(len(getattr(record, "error", "")) <= 200 for record in caplog.records)


@on_both_loops
async def test_session_sockets_are_watched_by_the_kernel_on_both_ends():
    async with opened() as world:
        channel = await world.link.open_session(world.addr, WORKER)
        await channel.send(Heartbeat())
        await channel.receive()
        (served,) = world.port._gate.connections
        for end in (
            channel._ws.get_extra_info("socket"),
            served.transport.get_extra_info("socket"),
        ):
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 1
            timeout_ms = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert timeout_ms == SILENCE_TIMEOUT_S * 1000


@on_both_loops
async def test_log_stream_brings_its_batches_in_order_and_its_end():
    batches = [LogBatch(lines=(LogLine("t1", n, 1, b"line"),)) for n in range(100)]
    batches.append(LogBatch(is_last=True))
    async with opened() as world:
        sink = await world.link.open_log_stream(world.addr, "s1", WORKER)
        for each in batches:
            await sink.send(each)
        await world.settled(connections=0)
        assert world.service.batches == batches
        assert world.service.calls == [("logs", "w1", "s1")]


@on_both_loops
async def test_log_stream_that_nobody_reads_costs_little_and_lives_on():
    batches = [LogBatch(lines=(LogLine("t1", n, 1, b"x" * 32_768),)) for n in range(300)]
    async with opened() as world:
        sink, sent = await world.link.open_log_stream(world.addr, "s1", WORKER), 0
        world.service.reads_logs.clear()  # but for the one it waits for

        async def flood():
            nonlocal sent
            for each in (*batches, LogBatch(is_last=True)):
                await sink.send(each)
                sent += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(flood())
            await asyncio.sleep(SILENCE_TIMEOUT_S + 1.5)
            assert sent < 20, "half a MiB"
            world.service.reads_logs.set()
        await world.settled(connections=0)
        assert world.service.batches[:-1] == batches


@on_both_loops
async def test_log_stream_ends_at_a_batch_that_no_agent_makes():
    async with opened() as world:
        sink = await world.link.open_log_stream(world.addr, "s1", WORKER)
        allowed = LogBatch(lines=(LogLine("t1", 1, 1, b"x" * 1024 * 1024),))
        await sink.send(allowed)
        await sink.send(LogBatch(lines=(LogLine("t1", 2, 1, b"x" * 2 * 1024 * 1024),)))
        await world.settled(connections=0)
        assert world.service.batches == [allowed]


# What ends, and what is replaced


@on_both_loops
async def test_removed_nodes_live_connections_end_at_once_and_no_others():
    async with opened() as world:
        mine = [await world.link.open_session(world.addr, WORKER) for _ in range(3)]
        manager = await world.link.open_session(world.addr, OTHER_MANAGER)
        world.remove("w1")
        assert max([await closed(channel) for channel in mine]) < 0.5
        assert (await ask(world.addr, WORKER))[0] == 403
        await manager.send(Heartbeat())
        assert await manager.receive() == Heartbeat()


@on_both_loops
async def test_session_ends_with_the_certificate_it_was_let_in_by(monkeypatch):
    monkeypatch.setattr(server, "CERTIFICATE_PERIOD_S", 0.05)
    short = OURS.credentials("w1", now_ms=NOW_MS, expiry_ns=2 * HOUR_NS)
    async with opened() as world:
        ends, stays = [await world.link.open_session(world.addr, c) for c in (short, WORKER)]
        await asyncio.sleep(0.2)
        world.clock.ahead_ms = 3 * HOUR_MS
        assert await closed(ends) < 1
        await stays.send(Heartbeat())
        assert await stays.receive() == Heartbeat()
        assert (await ask(world.addr, short, "POST", RENEW.path, RENEW_BODY))[0] == 200


@on_both_loops
async def test_new_certificate_and_root_count_from_the_next_connection_on():
    moved = SwarmCA(OURS.now_ms, 7)
    async with opened() as world:
        addresses = world.port.addresses
        session = await world.link.open_session(world.addr, WORKER)
        world.trust.replace(moved.credentials("m1", "manager"))
        assert (await ask(world.addr, moved.credentials("w1")))[0] == 200
        assert (await ask(world.addr, WORKER))[0] == 0
        both_roots = msgspec.structs.replace(WORKER, root_pem=OURS.root_pem + moved.root_pem)
        assert (await ask(world.addr, both_roots))[0] == 0  # trusts us, and is not trusted
        await session.send(Heartbeat())
        assert await session.receive() == Heartbeat()
        assert world.port.addresses == addresses
        with pytest.raises(ValueError, match="cannot be used"):
            world.trust.replace(msgspec.structs.replace(MANAGER, chain_pem=WORKER.chain_pem))
        assert (await ask(world.addr, moved.credentials("w1")))[0] == 200


@on_both_loops
async def test_certificates_of_a_root_to_come_are_trusted_by_those_who_know_the_old_root_alone():
    coming = new_root(OURS.now_ms, OURS.entropy)
    between = cross_sign(OURS.root, coming.cert_pem, OURS.entropy)
    signer = Signer(cert_pem=coming.cert_pem, key_pem=coming.key_pem)

    def rotated(node_id, role):
        leaf = OURS.credentials(node_id, role, signer=signer)
        return msgspec.structs.replace(leaf, chain_pem=leaf.chain_pem.strip() + b"\n" + between)

    async with opened(rotated("m1", "manager")) as world:
        for credentials in (WORKER, rotated("w1", "worker")):
            session = await world.link.open_session(world.addr, credentials)
            await session.send(Heartbeat())
            assert await session.receive() == Heartbeat()
        reader, writer = await connect(world.addr, rotated("w1", "worker"))
        assert len(verified_chain(writer.get_extra_info("ssl_object"))) == 3
        writer.transport.abort()
        assert reader is not None


# Plain requests


@on_both_loops
async def test_nodes_connection_serves_one_request_after_the_other_and_strangers_end():
    async with opened() as world:
        for credentials, answers in ((WORKER, 3), (STRANGER, 1)):
            reader, writer = await connect(world.addr, credentials)
            for _ in range(answers):
                writer.write(head("GET", "/node/v1/hello"))
                assert (await read_answer(reader))[0] == 200
            if credentials is STRANGER:
                assert await until_closed(reader) < 1
            writer.transport.abort()


@on_both_loops
async def test_idle_connection_is_closed(monkeypatch):
    monkeypatch.setattr(server, "IDLE_TIMEOUT_S", 0.2)
    async with opened() as world:
        reader, writer = await connect(world.addr, WORKER)
        writer.write(head("GET", "/node/v1/hello"))
        await read_answer(reader)
        writer.write(b"GET /node/v1/hel")
        assert 0.1 < await until_closed(reader) < 2
        writer.transport.abort()


@on_both_loops
async def test_every_answer_names_the_protocol():
    async with opened() as world:
        context = client_context(MANAGER)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), headers={PROTOCOL_HEADER: "1"}
        ) as client:
            for path in ("/node/v1/hello", "/node/v1/api/x", "/nowhere", "/node/v1/session"):
                url = f"https://{world.addr}{path}"
                async with client.get(url, server_hostname=MANAGER_NAME) as answer:
                    assert answer.headers[PROTOCOL_HEADER] == str(PROTOCOL_VERSION)


@on_both_loops
async def test_api_request_streams_both_ways_with_its_path_as_it_was_written():
    async with opened() as world:
        path = "/node/v1/api/v1.41/nodes/a%2Fb?x=%20"
        reader, writer = await connect(world.addr, MANAGER)
        start = head("POST", path).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        writer.write(start)
        assert b"Shown-Path: /v1.41/nodes/a%2Fb\r\n" in await reader.readuntil(b"\r\n\r\n")
        for part in (b"one", b"two"):
            writer.write(b"3\r\n" + part + b"\r\n")
            assert await reader.readexactly(8) == b"3\r\n" + part + b"\r\n"
        writer.transport.abort()


@on_both_loops
async def test_manager_that_does_not_lead_passes_calls_on_in_the_callers_name():
    async with opened() as leader, opened(OTHER_MANAGER) as follower:
        follower.service.leader = leader.addr
        for credentials, method, path, body in (
            (STRANGER, "POST", JOIN.path, JOIN_BODY),
            (expired("w1"), "POST", RENEW.path, RENEW_BODY),
            (STRANGER, "GET", CERTIFICATE.path.replace("{node_id}", "w1"), b""),
            (MANAGER, "POST", API.path.replace("{path}", "echo"), b"said"),
        ):
            status, said = await ask(
                follower.addr, credentials, method, path, body, source="127.0.0.3"
            )
            assert status == 200, said
        assert leader.service.calls == [
            ("request", None, "127.0.0.3"),
            ("request", "w1", "127.0.0.3"),
            ("status", "w1", "127.0.0.3"),
        ]
        assert follower.service.calls == []
        assert (await ask(follower.addr, WORKER, "GET", "/node/v1/api/nodes"))[0] == 403


@on_both_loops
async def test_call_is_passed_on_only_once():
    async with opened() as other, opened(OTHER_MANAGER) as follower:
        other.service.leader = follower.addr
        follower.service.leader = other.addr
        status, said = await ask(follower.addr, STRANGER, "POST", JOIN.path, JOIN_BODY)
        assert status == 503
        problem = msgspec.json.decode(said)
        assert (problem["code"], problem["managers"]) == ("not-leader", [follower.addr])


@on_both_loops
async def test_call_for_a_leader_who_is_away_is_unavailable():
    async with opened() as world:
        world.service.leader = "127.0.0.1:1"
        status, said = await ask(world.addr, STRANGER, "POST", JOIN.path, JOIN_BODY)
        assert (status, msgspec.json.decode(said)["code"]) == (503, "unavailable")


# The listener


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "::", "0.0.0.0"])
@on_both_loops
async def test_port_listens_on(host):
    if ":" in host and not has_ipv6():
        pytest.skip("this host has no IPv6")
    async with opened(host=host) as world:
        at = world.port.addresses[0]
        reach = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(host, at.host)
        status, said = await ask(f"{reach}:{at.port}", WORKER)
        assert status == 200, said
        status, said = await ask(f"{reach}:{at.port}", STRANGER, "POST", JOIN.path, JOIN_BODY)
        source = world.service.calls[0][2]
        assert source == ("::1" if reach == "::1" else "127.0.0.1")


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@on_both_loops
async def test_port_that_is_taken_is_refused_with_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = taken.getsockname()[1]
        with pytest.raises(FailedPreconditionError, match="already in use") as refused:
            await opened_at("127.0.0.1", at)
    assert "--listen-addr" in refused.value.remedy


@on_both_loops
async def test_port_of_a_name_nobody_knows_is_refused_with_a_sentence():
    with pytest.raises(FailedPreconditionError, match=r"nobody\.invalid:1 cannot be opened"):
        await opened_at("nobody.invalid", 1)


async def opened_at(host, at):
    for each in await listen(Address(host=host, port=at)):
        each.close()


@on_both_loops
async def test_port_that_closes_ends_its_sessions_and_can_be_opened_again():
    async with opened() as world:
        channel = await world.link.open_session(world.addr, WORKER)
        await channel.send(Heartbeat())
        await channel.receive()
        began = time.monotonic()
    assert time.monotonic() - began < 3
    with pytest.raises(ChannelClosedError):
        await channel.receive()
    await opened_at("127.0.0.1", world.port.addresses[0].port)


async def test_connection_on_asyncios_own_loop_has_a_small_buffer():
    async with opened() as world:
        _, writer = await connect(world.addr, WORKER)
        await world.settled(connections=1)
        (served,) = world.port._gate.connections
        assert len(served.transport._ssl_protocol._ssl_buffer) == BUFFER_SIZE_B
        writer.transport.abort()

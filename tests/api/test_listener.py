"""The unix socket: rights, leftovers, and addresses that cannot be."""

import asyncio
import grp
import logging
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest
import uvloop

from swarmlet.api import listener
from swarmlet.api.app import build_app
from swarmlet.api.listener import serve_unix
from swarmlet.core.errors import InvalidArgumentError, ListenError
from tests.api.world import World


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(prefix="swl-", dir="/tmp") as directory:
        yield f"{directory}/deep/s.sock"


def exists(path):
    return Path(path).exists()


def read(path):
    return Path(path).read_text()


def write(path, text):
    Path(path).write_text(text)


def umask():
    now = os.umask(0o077)
    os.umask(now)
    return now


async def ask(path, request=b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_socket_answers_and_is_gone_afterwards(path):
    before = umask()
    async with serve_unix(build_app(World()), f"unix://{path}") as served:
        assert served == path
        assert (await ask(path)).endswith(b"OK")
        assert stat.S_IMODE(os.stat(path).st_mode) in (0o600, 0o660)
    assert not exists(path)
    assert umask() == before


async def test_leftover_socket_is_replaced(path):
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert exists(path)
    async with serve_unix(build_app(World()), path):
        assert (await ask(path)).endswith(b"OK")


async def test_socket_that_somebody_answers_on_is_left_alone(path):
    async with serve_unix(build_app(World()), path):
        with pytest.raises(ListenError, match="Another daemon answers") as caught:
            async with serve_unix(build_app(World()), path):
                pass
        assert "daemon stop" in caught.value.remedy
        assert (await ask(path)).endswith(b"OK")


async def test_file_that_is_no_socket_is_left_alone(path):
    Path(path).parent.mkdir()
    write(path, "precious")
    with pytest.raises(ListenError, match="is no socket"):
        async with serve_unix(build_app(World()), path):
            pass
    assert read(path) == "precious"


@pytest.mark.parametrize(
    ("host", "error", "text"),
    [
        ("/tmp/" + "x" * 120, InvalidArgumentError, "125 bytes"),
        ("tcp://127.0.0.1:2375", InvalidArgumentError, "no address"),
        ("/proc/no/s.sock", ListenError, "cannot be opened"),
        ("/dev/null/s.sock", ListenError, "cannot be opened"),
    ],
)
async def test_bad_address_is_refused_with_a_remedy(host, error, text):
    with pytest.raises(error, match=text) as caught:
        async with serve_unix(build_app(World()), host):
            pass
    assert "unix:///" in caught.value.remedy


async def test_socket_of_another_daemon_in_our_place_is_not_removed(path):
    async with serve_unix(build_app(World()), path):
        os.unlink(path)
        other = socket.socket(socket.AF_UNIX)
        other.bind(path)
    assert exists(path)
    other.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\r\n\r\n",
        b"POST /swarm/init HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_garbage_is_refused_and_does_not_fill_the_log(path, garbage, caplog):
    caplog.set_level(logging.DEBUG)
    async with serve_unix(build_app(World()), path):
        for _ in range(3):
            assert b" 400 " in (await ask(path, garbage)).split(b"\r\n")[0] + b" "
        assert (await ask(path)).endswith(b"OK")
    assert [record.name for record in caplog.records if record.name.startswith("aiohttp")] == []


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root: gives the socket to a group")
async def test_root_shares_its_socket_with_the_group(path, monkeypatch):
    monkeypatch.setattr(listener, "GROUP", "daemon")
    async with serve_unix(build_app(World()), path):
        found = os.stat(path)
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert (found.st_uid, found.st_gid) == (0, grp.getgrnam("daemon").gr_gid)


async def test_socket_is_its_owner_s_alone_where_there_is_no_group(path, monkeypatch):
    monkeypatch.setattr(listener, "GROUP", "no-such-group-here")
    async with serve_unix(build_app(World()), path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_socket_has_the_same_rights_on_uvloop(path):
    async def serve():
        async with serve_unix(build_app(World()), path):
            assert (await ask(path)).endswith(b"OK")
            return stat.S_IMODE(os.stat(path).st_mode)

    assert uvloop.run(serve()) in (0o600, 0o660)


async def test_filters_may_be_long_and_no_longer(path):
    def request(size):
        filters = b"x" * size
        return (
            b"GET /networks?filters=%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % filters
        )

    async with serve_unix(build_app(World()), path):
        assert b'"message":"invalid filter"' in await ask(path, request(60_000))
        assert b'"message":"invalid filter"' in await ask(path, request(100_000))
        assert b" 400 Bad Request" in await ask(path, request(200_000))


async def test_burst_of_clients_waits_while_the_daemon_is_busy(path):
    clients = [socket.socket(socket.AF_UNIX) for _ in range(500)]
    async with serve_unix(build_app(World()), path):
        for client in clients:  # without a turn of the loop, as in the middle of a long request
            client.setblocking(False)
            client.connect(path)
        for client in clients:
            client.close()
        assert (await ask(path)).endswith(b"OK")


async def test_folder_of_the_socket_lets_the_group_in_whatever_the_umask(path):
    below = Path(path).parent / "made" / "s.sock"
    previous = os.umask(0o077)
    try:
        async with serve_unix(build_app(World()), f"unix://{below}"):
            assert stat.S_IMODE(below.parent.stat().st_mode) == 0o755
    finally:
        os.umask(previous)

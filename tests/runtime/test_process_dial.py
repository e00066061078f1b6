"""Connections to ports of tasks of the process runtime; as root and as an ordinary user."""

import asyncio
import os
import socket

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.process.dialing import port_given
from swarmlet.runtime.process.ports import Port
from swarmlet.runtime.tcp import Listener, find_listeners, is_ours
from tests.runtime.process_world import IS_ROOT, assigned, begin, line_of

WAIT_S = 20.0
ECHO = """
import os, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.socket(family)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[1], int(sys.argv[2] if len(sys.argv) > 2 else os.environ["PORT"])))
server.listen()
print(server.getsockname()[1], flush=True)
while True:
    client, _ = server.accept()
    while data := client.recv(65536):
        client.sendall(data)
    client.sendall(b"bye")
    client.close()
"""


async def listening(runtime, *words: str, target: int = 80) -> int:
    """Start task `t`; the port it listens on."""
    ports = (("udp", 82, 0), ("tcp", 81, 0), ("tcp", target, 0))
    environment = f'PORT=$PORT_{target} exec /usr/bin/python3 -c "$0" "$@"'
    task = assigned("t", "/bin/sh", "-c", environment, ECHO, *words, ports=ports)
    await begin(runtime, task)
    return int(await line_of(runtime, "t"))


async def converse(connection, data: bytes) -> bytes:
    """What comes back, to its end."""
    seen = b""

    async def read() -> None:
        nonlocal seen
        while part := await connection.read():
            seen += part

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        group.create_task(read())
        await connection.write(data)
        await connection.end_input()
    await connection.close()
    return seen


async def flood(connection, within_s: float) -> None:
    """Write for ever."""
    async with asyncio.timeout(within_s):
        while True:
            await connection.write(b"x" * 32_768)
            await asyncio.sleep(0)


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "127.0.0.7", "::", "::1"])
async def test_target_port_leads_to_the_port_the_task_was_given(runtime, address):
    number = await listening(runtime, address)
    assert 20_000 <= number <= 29_999
    data = os.urandom(1_000_000)
    assert await converse(await runtime.dial(TaskID("t"), 80), data) == data + b"bye"


async def test_port_that_was_not_given_is_its_own_number(runtime):
    number = await listening(runtime, "0.0.0.0", "0")
    assert await converse(await runtime.dial(TaskID("t"), number), b"hello") == b"hellobye"


async def test_port_nobody_listens_on_is_told(runtime):
    await listening(runtime, "0.0.0.0", "0")
    with pytest.raises(RuntimeProblemError, match="Nothing listens on port") as caught:
        await runtime.dial(TaskID("t"), 80)
    assert "PORT_<target>" in caught.value.remedy


async def test_port_of_the_daemon_itself_is_refused(runtime):
    await begin(runtime, assigned("t", "sleep", "100"))
    refused = pytest.raises(RuntimeProblemError, match="belongs to another process")
    with socket.create_server(("127.0.0.1", 0)) as server, refused:
        await runtime.dial(TaskID("t"), server.getsockname()[1])


@pytest.mark.skipif(not IS_ROOT, reason="an ordinary user's tasks share one account")
async def test_port_of_another_task_is_refused(runtime):
    number = await listening(runtime, "0.0.0.0", "0")
    await begin(runtime, assigned("u", "sleep", "100"))
    with pytest.raises(RuntimeProblemError, match="belongs to another process"):
        await runtime.dial(TaskID("u"), number)


async def test_task_that_does_not_run_cannot_be_dialed(runtime):
    with pytest.raises(RuntimeProblemError, match="not started"):
        await runtime.dial(TaskID("nobody"), 80)
    task = assigned("t", "true")
    await begin(runtime, task)
    await runtime.wait(task.id)
    with pytest.raises(RuntimeProblemError, match="does not run"):
        await runtime.dial(task.id, 80)


async def test_writer_waits_while_the_task_does_not_read(runtime):
    await listening(runtime, "0.0.0.0")
    connection = await runtime.dial(TaskID("t"), 80)
    with pytest.raises(TimeoutError):
        await flood(connection, 1)
    await connection.close()


async def test_connection_that_breaks_off_is_told(runtime):
    await listening(runtime, "0.0.0.0")
    connection = await runtime.dial(TaskID("t"), 80)
    await connection.write(b"x" * 32_768)
    await runtime.stop(TaskID("t"), "SIGKILL", 5)
    with pytest.raises(RuntimeProblemError, match="broke off"):
        await flood(connection, WAIT_S)
    await connection.close()


def test_port_given_is_the_first_of_its_protocol_and_target():
    ports = (Port("udp", 80, 1), Port("tcp", 81, 2), Port("tcp", 80, 3), Port("tcp", 80, 4))
    assert [port_given(ports, target) for target in (80, 81, 82)] == [3, 2, 82]


def test_listeners_are_found_by_port_and_by_whose_they_are():
    with socket.create_server(("127.0.0.9", 0)) as server:
        (found,) = find_listeners(server.getsockname()[1])
        assert (found.address, found.uid) == ("127.0.0.9", os.getuid())
        assert is_ours(found)
    assert not is_ours(found)


def test_address_of_a_listener_is_what_a_connection_needs():
    def address(text: str) -> str:
        return Listener(["0:", f"{text}:0050", *["0"] * 5, "7", "0", "1"]).address

    assert address("0100007F") == "127.0.0.1"
    assert address("00000000") == "127.0.0.1"
    assert address("0" * 32) == "::1"
    assert socket.inet_pton(socket.AF_INET6, address("000080FE00000000000000FF0100FE00"))

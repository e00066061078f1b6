"""Connections to tasks that break off, on both event loops."""

import asyncio
import socket
import struct

import pytest
import uvloop

from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.tcp import TcpConnection

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close is a reset


def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_one_that_was_reset_is_told_as_a_problem(run):
    async def story() -> None:
        async with asyncio.timeout(30), await asyncio.start_server(reset, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            connection = TcpConnection(reader, writer)
            with pytest.raises(ConnectionResetError):
                await writer.wait_closed()
            for _ in range(2):
                with pytest.raises(RuntimeProblemError, match="broke off"):
                    await connection.write(b"data")
            await connection.end_input()
            with pytest.raises(RuntimeProblemError, match="broke off"):
                await connection.read()
            await connection.close()

    run(story())

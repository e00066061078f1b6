"""A manager's calls to other managers: Raft channels, snapshots, the group's members, its key."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

import msgspec

from swarmlet.core.errors import UnauthorizedError
from swarmlet.env.real import WorkerThread
from swarmlet.wire.answers import OWN_HEADERS, StrangerError, read_answer, until_ready
from swarmlet.wire.bodies import PART_TIMEOUT_S, snapshot_parts
from swarmlet.wire.calls import Call, Calls, in_words, url_of
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.failures import failure
from swarmlet.wire.messages import TaskStreamAsk, encode
from swarmlet.wire.node_api import (
    MemberGrant,
    MemberRequest,
    SnapshotAnswer,
    SnapshotHead,
    UnlockKeyAnswer,
)
from swarmlet.wire.raft_socket import RaftSocket
from swarmlet.wire.routes import (
    MEMBER_JOIN,
    MEMBER_LEAVE,
    RAFT,
    SNAPSHOT,
    TASK_STREAM,
    UNLOCK_KEY,
    PortRoute,
)
from swarmlet.wire.stream_socket import MESSAGE_BOUND_B, StreamSocket
from swarmlet.wire.tls import MANAGER_NAME, peer_name

MEMBER_TIMEOUT_S: Final = 30.0  # the leader dials back, hands leadership over, commits
INSTALL_TIMEOUT_S: Final = 120.0  # from a snapshot's last part to its answer


class ManagerLink(Calls):
    """Part of `NodeLink`."""

    async def open_raft(self, addr: str, credentials: Credentials) -> RaftSocket:
        call = Call(route=RAFT, credentials=credentials, checks_dates=False)
        ws = await self._open(addr, call)
        tls = ws.get_extra_info("ssl_object")
        if tls is None:
            raise failure(addr, ConnectionResetError())
        try:
            return RaftSocket(peer_name(tls), ws=ws)
        except ValueError as error:
            await ws.close()
            raise UnauthorizedError(f"The certificate of {addr} names no node.") from error

    async def send_snapshot(
        self, addr: str, head: SnapshotHead, chunks: Iterable[bytes], credentials: Credentials
    ) -> SnapshotAnswer:
        """Its deadline moves on with each part. The chunks are made by a thread of their own:
        neither the loop waits for them nor what the node writes to its disk."""
        thread = WorkerThread("snapshot")
        try:
            parts = snapshot_parts(head, chunks, thread)
            body = await self._send(addr, parts, credentials, head.node_id or MANAGER_NAME)
        finally:
            thread.close()
        try:
            return msgspec.json.decode(body, type=SnapshotAnswer)
        except (ValueError, RecursionError) as error:
            raise failure(addr, StrangerError("its answer cannot be read")) from error

    async def join_members(
        self, addr: str, request: MemberRequest, credentials: Credentials
    ) -> MemberGrant:
        return await self._ask(addr, _asking(MEMBER_JOIN, request, credentials), MemberGrant)

    async def leave_members(
        self, addr: str, request: MemberRequest, credentials: Credentials
    ) -> None:
        await self._answer(addr, _asking(MEMBER_LEAVE, request, credentials))

    async def unlock_key(self, addr: str, credentials: Credentials) -> UnlockKeyAnswer:
        return await self._ask(
            addr, Call(route=UNLOCK_KEY, credentials=credentials), UnlockKeyAnswer
        )

    async def open_task_stream(
        self, addr: str, ask: TaskStreamAsk, credentials: Credentials
    ) -> StreamSocket:
        call = Call(route=TASK_STREAM, credentials=credentials, bound_b=MESSAGE_BOUND_B)
        channel = StreamSocket(ws=await self._open(addr, call))
        try:
            await channel.send_bytes(encode(ask))
            await until_ready(channel)
        except BaseException:
            channel.close()
            raise
        return channel

    async def _send(
        self, addr: str, parts: AsyncIterator[bytes], credentials: Credentials, server_name: str
    ) -> bytes:
        call = Call(route=SNAPSHOT, credentials=credentials, checks_dates=False)
        deadline = asyncio.timeout(PART_TIMEOUT_S)
        async with (
            self._pools.pool(call.kind()) as pool,
            in_words(addr),
            deadline,
            pool.client.post(
                url_of(addr, call.path()),
                server_hostname=server_name,
                headers=OWN_HEADERS,
                data=_moving(deadline, parts),
                allow_redirects=False,
            ) as answer,
        ):
            return await read_answer(answer)


async def _moving(deadline: asyncio.Timeout, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same parts; each that is taken puts the deadline off."""
    now = asyncio.get_running_loop().time
    async for part in parts:
        yield part
        deadline.reschedule(now() + PART_TIMEOUT_S)
    deadline.reschedule(now() + INSTALL_TIMEOUT_S)


def _asking(route: PortRoute, request: MemberRequest, credentials: Credentials) -> Call:
    body = msgspec.json.encode(request)
    return Call(route=route, credentials=credentials, body=body, timeout_s=MEMBER_TIMEOUT_S)

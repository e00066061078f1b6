"""Who is at the other end of the API's socket, as the kernel says it."""

import asyncio
import pwd
import socket
import struct
from typing import Final

from swarmlet.api.call import Call

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


async def caller_of(call: Call) -> str:
    """The user and the node whose API was asked: `alice (uid 1000) at m1`. A user's name may be
    looked up far away: the loop does not wait for it."""
    uid = _uid_of(call)
    return f"{await _user(uid)} at {call.engine.facts.hostname}"


def _uid_of(call: Call) -> int | None:
    """None where the socket knows no users, or the caller is gone."""
    transport = call.request.transport
    connection = None if transport is None else transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid


async def _user(uid: int | None) -> str:
    if uid is None:
        return "somebody"
    try:
        entry = await asyncio.to_thread(pwd.getpwuid, uid)
    except KeyError:
        return f"uid {uid}"
    return f"{entry.pw_name} (uid {uid})"

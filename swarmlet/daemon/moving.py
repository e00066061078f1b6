"""A node in a swarm gets other addresses, or becomes a swarm of its own."""

from typing import Final

from msgspec.structs import replace

from swarmlet.api.engine import InitRequest
from swarmlet.core.errors import SwarmStateError
from swarmlet.core.limits import LISTEN_PORT
from swarmlet.daemon.addresses import WILDCARDS, Addresses, choose_place
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.env.base import Env

_DEFAULTS: Final = ("", WILDCARDS[0], f"{WILDCARDS[0]}:{LISTEN_PORT}")
"""What clients send for a listen address that nobody gave."""


async def moved(
    env: Env, addresses: Addresses, file: SwarmFile, *, listen: str = "", advertise: str = ""
) -> SwarmFile:
    """The same node at the addresses that are given; the others stay. Raises
    InvalidArgumentError."""
    if not listen and not advertise:
        return file
    place = await choose_place(
        env,
        addresses,
        listen=listen or file.listen_addr,
        advertise=advertise,
        data_path=file.data_path_addr,
    )
    return replace(file, listen_addr=str(place.listen), advertise_addr=str(place.advertised))


async def forced(
    env: Env, addresses: Addresses, file: SwarmFile, request: InitRequest
) -> SwarmFile:
    """This manager becomes the whole of its Raft group: same swarm, same objects. Raises
    InvalidArgumentError, FailedPreconditionError."""
    listen = "" if request.listen_addr in _DEFAULTS else request.listen_addr
    file = await moved(env, addresses, file, listen=listen, advertise=request.advertise_addr)
    return replace(file, is_forced=True)


def no_copy() -> SwarmStateError:
    """Of a node that cannot become a swarm of its own with the data of the one it is in."""
    return SwarmStateError(
        "This node keeps no copy of the swarm's state, so no new cluster can be made of it.",
        remedy="Run it on one that was a manager of this swarm, or leave the swarm first "
        "(`swarmlet leave --force`) and found a new one.",
    )

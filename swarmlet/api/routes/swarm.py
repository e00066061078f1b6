"""`/swarm`: this node's membership and the swarm's own settings."""

from typing import Final

import msgspec
from aiohttp import web

from swarmlet.api.call import Call, Route, reply, reply_empty
from swarmlet.api.engine import InitRequest, JoinRequest
from swarmlet.api.query import flag, object_version, strict_flag
from swarmlet.api.render.cluster import render_cluster, render_unlock_key
from swarmlet.ca.join_token import parse_join_token
from swarmlet.ca.unlock_key import parse_unlock_key
from swarmlet.core.errors import (
    ConflictError,
    InvalidArgumentError,
    UnknownValueError,
    already_in_swarm,
)
from swarmlet.model.address import parse_address
from swarmlet.model.base import ApiStruct, hidden
from swarmlet.model.cluster import EncryptionConfig, SwarmSpec
from swarmlet.model.parse import parse
from swarmlet.model.view import cluster_of


class InitBody(ApiStruct, frozen=True, kw_only=True):
    """Of `POST /swarm/init`. Pools that are null differ from none: the first asks for the default
    by name, the second leaves the choice to the swarm."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    data_path_port: int = 0
    force_new_cluster: bool = False
    spec: SwarmSpec = SwarmSpec()
    auto_lock_managers: bool = False
    availability: str = ""
    default_addr_pool: list[str] | None = None
    subnet_size: int = 0
    announce: bool = False


class JoinBody(ApiStruct, frozen=True, kw_only=True):
    """Of `POST /swarm/join`. `announce` and `discover` are this API's own: who asks to discover
    needs no address, managers on the local network are looked for then."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    remote_addrs: list[str] = []
    join_token: str = ""
    availability: str = ""
    announce: bool = False
    discover: bool = False


class UnlockBody(ApiStruct, frozen=True, kw_only=True):
    unlock_key: str = ""

    __repr__ = hidden


async def init(call: Call) -> web.Response:
    body = parse(InitBody, await call.body())
    spec = body.spec
    if body.auto_lock_managers:
        lock = EncryptionConfig(auto_lock_managers=True)
        spec = msgspec.structs.replace(spec, encryption_config=lock)
    pool = body.default_addr_pool
    node_id = await call.engine.init_swarm(
        InitRequest(
            spec=spec,
            listen_addr=body.listen_addr,
            advertise_addr=body.advertise_addr,
            data_path_addr=body.data_path_addr,
            data_path_port=body.data_path_port,
            availability=body.availability,
            default_addr_pool=None if pool is None else tuple(pool),
            subnet_size=body.subnet_size,
            force_new_cluster=body.force_new_cluster,
            announce=body.announce,
        )
    )
    return reply(node_id)


def _check_token(token: str) -> None:
    try:
        parse_join_token(token)
    except InvalidArgumentError as problem:
        raise UnknownValueError(problem.message, problem.remedy) from None


async def join(call: Call) -> web.Response:
    body = parse(JoinBody, await call.body())
    if call.engine.swarm_state().state not in ("inactive", "error"):
        raise already_in_swarm()
    parse_address(body.listen_addr, "ListenAddr")
    if not body.remote_addrs and not body.discover:
        raise InvalidArgumentError(
            "at least 1 RemoteAddr is required to join", remedy="Name a manager as host:port."
        )
    addrs = tuple(str(parse_address(addr, "remoteAddr")) for addr in body.remote_addrs)
    _check_token(body.join_token)
    await call.engine.join_swarm(
        JoinRequest(
            token=body.join_token.strip(),
            remote_addrs=addrs,
            listen_addr=body.listen_addr,
            advertise_addr=body.advertise_addr,
            data_path_addr=body.data_path_addr,
            availability=body.availability,
            announce=body.announce,
        )
    )
    return reply_empty()


async def leave(call: Call) -> web.Response:
    await call.engine.leave_swarm(force=flag(call.query, "force"))
    return reply_empty()


async def inspect(call: Call) -> web.Response:
    view = await call.view(call.engine.control())
    return reply(render_cluster(cluster_of(view), with_tokens=True))


async def update(call: Call) -> web.Response:
    control = call.engine.control()
    version = object_version(call.query, "swarm")
    rotate_worker = strict_flag(call.query, "rotateWorkerToken")
    rotate_manager = strict_flag(call.query, "rotateManagerToken")
    rotate_key = strict_flag(call.query, "rotateManagerUnlockKey")
    await control.update_cluster(
        version,
        parse(SwarmSpec, await call.body()),
        rotate_worker_token=rotate_worker,
        rotate_manager_token=rotate_manager,
        rotate_unlock_key=rotate_key,
    )
    return reply_empty()


async def unlock_key(call: Call) -> web.Response:
    view = await call.view(call.engine.control())
    return reply({"UnlockKey": render_unlock_key(cluster_of(view))})


async def unlock(call: Call) -> web.Response:
    body = parse(UnlockBody, await call.body())
    if call.engine.swarm_state().state != "locked":
        call.engine.control()
        raise ConflictError("swarm is not locked")
    await call.engine.unlock_swarm(parse_unlock_key(body.unlock_key))
    return reply_empty()


MEMBERSHIP_ROUTES: Final = (
    Route("POST", "/swarm/init", init),
    Route("POST", "/swarm/join", join),
    Route("POST", "/swarm/leave", leave),
    Route("POST", "/swarm/unlock", unlock),
)
ROUTES: Final = (
    Route("GET", "/swarm", inspect),
    Route("POST", "/swarm/update", update),
    Route("GET", "/swarm/unlockkey", unlock_key),
)

"""What the probes are asked about: options, else what a running daemon says, else the defaults."""

import os
from collections.abc import Mapping

import msgspec

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.paths import DOCKER_HOST, UNIX_PREFIX, default_data_dir, default_host
from swarmlet.doctor.daemon import ask_daemon
from swarmlet.doctor.world import World, peer_pid
from swarmlet.model.address import is_ip, parse_address


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """As they were given; "" where not."""

    host: str = ""  # of the daemon
    data_dir: str = ""
    docker_host: str = ""
    listen_addr: str = ""


def look_around(options: Options, env: Mapping[str, str], uid: int) -> World:
    """Ask the daemon, if one answers (4 s at most), and take the rest from the environment.

    Raises InvalidArgumentError where there is no place for the data, or no IP in --listen-addr.
    """
    data_dir = os.path.abspath(options.data_dir) if options.data_dir else ""
    host = options.host or default_host(env, uid, os.path.exists, data_dir=data_dir)
    answer = ask_daemon(host)
    found = answer.body if answer.is_object else {}
    data_dir = data_dir or str(found.get("DataDir") or "") or default_data_dir(env, uid)
    socket_host = host if host.startswith(UNIX_PREFIX) else UNIX_PREFIX + host
    named = options.docker_host
    if not named and not found and env.get("DOCKER_HOST") != socket_host:
        named = env.get("DOCKER_HOST", "")
    world = World(
        data_dir=data_dir,
        pid=os.getpid(),
        socket_host=socket_host,
        docker_host=named or str(found.get("DockerHost") or DOCKER_HOST),
        is_docker_wanted=bool(named) or found.get("Runtime") == "docker",
        is_daemon_wanted=bool(options.host),
        daemon_pid=peer_pid(host) if found else 0,
        uid=uid,
    )
    return _listening(_as_open(world, str(found.get("ListenAddr") or "")), options.listen_addr)


def _as_open(world: World, address: str) -> World:
    """With the port that the daemon has open, which is the one to look at unless told otherwise."""
    if not address:
        return world
    at = parse_address(address, "ListenAddr")
    return msgspec.structs.replace(
        world, listen_host=at.host, listen_port=at.port, daemon_port=at.port
    )


def _listening(world: World, text: str) -> World:
    if not text:
        return world
    address = parse_address(text, "--listen-addr")
    if not is_ip(address.host):
        raise InvalidArgumentError(
            f"{address.host!r} in --listen-addr is no IP address.",
            remedy="Give one of this host's addresses; `ip addr` lists them.",
        )
    return msgspec.structs.replace(world, listen_host=address.host, listen_port=address.port)

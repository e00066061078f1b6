"""Where a node keeps its data and where its daemon listens, unless told otherwise.

Daemon and CLI ask the same functions: a bare `swarmlet node ls` finds a bare `swarmlet daemon`.
The environment, the uid and the look at the disk are arguments.
"""

from collections.abc import Callable, Mapping
from typing import Final

from swarmlet.core.errors import InvalidArgumentError

ROOT_DATA_DIR: Final = "/var/lib/swarmlet"
ROOT_SOCKET: Final = "/run/swarmlet/swarmlet.sock"
SOCKET_NAME: Final = "swarmlet.sock"
SOCKET_PATH_LENGTH_MAX_B: Final = 107  # bytes; sun_path of unix(7) holds 108 with its final zero
UNIX_PREFIX: Final = "unix://"
DOCKER_HOST: Final = "unix:///var/run/docker.sock"
"""Where a Docker Engine listens unless it is told otherwise."""


def default_data_dir(env: Mapping[str, str], uid: int) -> str:
    """The data directory where none was named: root's, else swarmlet's in the XDG data directory.

    Raises InvalidArgumentError where the environment names neither XDG_DATA_HOME nor HOME.
    """
    if uid == 0:
        return ROOT_DATA_DIR
    if base := env.get("XDG_DATA_HOME", ""):
        return f"{base.rstrip('/')}/swarmlet"
    if home := env.get("HOME", ""):
        return f"{home.rstrip('/')}/.local/share/swarmlet"
    raise InvalidArgumentError(
        "Neither XDG_DATA_HOME nor HOME is set, so there is no place for the data.",
        remedy="Name one: `swarmlet daemon --data-dir DIR`.",
    )


def default_host(
    env: Mapping[str, str], uid: int, exists: Callable[[str], bool], *, data_dir: str = ""
) -> str:
    """The daemon's address where none was named, as `unix:///path`.

    Root: under /run. Others: in XDG_RUNTIME_DIR, else in /run/user/UID where that is there, else
    in the data directory (`data_dir`, or the default one).
    """
    if uid == 0:
        return UNIX_PREFIX + ROOT_SOCKET
    if runtime_dir := env.get("XDG_RUNTIME_DIR", ""):
        return f"{UNIX_PREFIX}{runtime_dir.rstrip('/')}/swarmlet/{SOCKET_NAME}"
    if exists(f"/run/user/{uid}"):
        return f"{UNIX_PREFIX}/run/user/{uid}/swarmlet/{SOCKET_NAME}"
    return f"{UNIX_PREFIX}{data_dir or default_data_dir(env, uid)}/{SOCKET_NAME}"


def socket_path(host: str) -> str:
    """The path in `unix:///path` or in a plain absolute path.

    Raises InvalidArgumentError for another scheme, a relative path and one that is too long.
    """
    path = host.removeprefix(UNIX_PREFIX)
    if not path.startswith("/"):
        raise InvalidArgumentError(
            f"{host!r} is no address of a swarmlet daemon.",
            remedy="Write unix:///path/to/swarmlet.sock, or the plain absolute path of the socket.",
        )
    if (length := len(path.encode())) > SOCKET_PATH_LENGTH_MAX_B:
        raise InvalidArgumentError(
            f"The socket path {path} is {length} bytes long; the kernel allows "
            f"{SOCKET_PATH_LENGTH_MAX_B}.",
            remedy=f"Choose a shorter one, such as unix:///tmp/{SOCKET_NAME}.",
        )
    return path

"""The unix socket the API is served on: who may open it, and whose it is.

A socket file that nobody answers on is left over from a daemon that died, and is replaced; one that
somebody answers on is never touched.
"""

import asyncio
import grp
import logging
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from swarmlet.core.errors import ListenError
from swarmlet.core.paths import socket_path

log = logging.getLogger("swarmlet.api")

GROUP: Final = "swarmlet"
"""Its members may use a daemon of root's, as those of `docker` may use Docker's."""

ANSWER_TIMEOUT_S: Final = 2.0
"""For somebody to accept on an existing socket; the kernel answers for a dead one at once."""

BACKLOG: Final = 4096
"""Connections that wait to be accepted, as Go's servers have it: on a unix socket the next one is
not kept waiting but refused."""

SHUTDOWN_TIMEOUT_S: Final = 2.0
"""For requests under way when the daemon stops; streams end by themselves."""

HEAD_LINE_SIZE_MAX_B: Final = 131_072
"""Of a request's first line or a header: filters that name hundreds of secrets are in there."""


class _NoGarbage(logging.Filter):
    """Drops aiohttp's tracebacks for bytes that are no HTTP: they would fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        problem = record.exc_info[1] if record.exc_info else None
        return not isinstance(problem, (BadHttpMessage, web.RequestPayloadError))


_NO_GARBAGE: Final = _NoGarbage()


def _problem(path: str, error: OSError) -> ListenError:
    return ListenError(
        f"The socket {path} cannot be opened: {(error.strerror or str(error)).lower()}.",
        remedy="Name a place this user may write to: --host unix:///path/to/swarmlet.sock",
    )


async def _is_answered(path: str) -> bool:
    """Whether somebody accepts connections. Raises OSError where that cannot be found out."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            transport, _ = await asyncio.get_running_loop().create_unix_connection(
                asyncio.Protocol, path
            )
    except ConnectionRefusedError:
        return False
    except TimeoutError:
        return True  # it is somebody's, who is busy
    transport.close()
    return True


async def _clear(path: str) -> None:
    """Make the path free. Raises ListenError where it is somebody else's, OSError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"{path} is there already and is no socket; it was left alone.",
            remedy="Remove it, or name another place: --host unix:///path/to/swarmlet.sock",
        )
    if await _is_answered(path):
        raise ListenError(
            f"Another daemon answers on {path}.",
            remedy="Use that one, or stop it first: `swarmlet daemon stop`.",
        )
    os.unlink(path)


def _share(path: str) -> None:
    """Root's socket is for its group too, where there is one."""
    if os.geteuid() != 0:
        return
    try:
        group = grp.getgrnam(GROUP)
    except KeyError:
        return
    os.chown(path, 0, group.gr_gid)
    os.chmod(path, 0o660)


def _make_folder(folder: str) -> None:
    """Make it where it is missing, whatever the umask: the socket's group has to get in."""
    if not os.path.isdir(folder):
        os.makedirs(folder)
        os.chmod(folder, 0o755)  # noqa: S103 - a folder to enter, as /run is


async def _open(runner: web.AppRunner, path: str) -> None:
    """Listen. The file is never there with more rights than its owner's, not for a moment."""
    _make_folder(os.path.dirname(path))
    await _clear(path)
    previous = os.umask(0o177)
    try:
        await web.UnixSite(runner, path, backlog=BACKLOG).start()
    finally:
        os.umask(previous)
    _share(path)


def _remove(path: str, inode: int) -> None:
    """Remove our socket file, unless somebody has replaced it."""
    try:
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except OSError as error:
        log.warning("api.socket_not_removed", extra={"path": path, "error": str(error)})


@asynccontextmanager
async def serve_unix(app: web.Application, host: str) -> AsyncIterator[str]:
    """Serve `app` on `unix:///path` (or a plain path) until the block ends; yields the path.

    The socket is 0660 root:swarmlet for root where that group exists, else 0600. Raises
    InvalidArgumentError for an address that cannot be one, ListenError where it cannot be opened.
    """
    path = socket_path(host)
    logging.getLogger("aiohttp.server").addFilter(_NO_GARBAGE)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        max_line_size=HEAD_LINE_SIZE_MAX_B,
        max_field_size=HEAD_LINE_SIZE_MAX_B,
    )
    await runner.setup()
    try:
        try:
            await _open(runner, path)
        except OSError as error:
            raise _problem(path, error) from error
        inode = os.lstat(path).st_ino
        log.info("api.listening", extra={"path": path})
        try:
            yield path
        finally:
            _remove(path, inode)
    finally:
        await runner.cleanup()

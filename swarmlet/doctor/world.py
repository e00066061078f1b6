"""The door of the probes to this machine: its files, programs, sockets and clocks."""

import contextlib
import gzip
import http.client
import json
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Sequence
from time import CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, monotonic, sleep
from typing import Any, Final

import msgspec

from swarmlet.core.paths import UNIX_PREFIX

PROGRAM_TIMEOUT_S: Final = 4.0  # below a probe's deadline, so that the sentence names the program
ASK_TIMEOUT_S: Final = 2.0  # for connecting, and for each part of an answer
BODY_SIZE_MAX_B: Final = 4 * 1024 * 1024
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for after $PATH: an ordinary user's has no sbin."""
_KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_NO_REASON: Final = "Command failed -"  # ip names the line of its input
_LOGGED: Final = re.compile(r'msg="((?:[^"\\]|\\.)*)"')  # runc writes its reason as a log line
_UCRED: Final = "3i"  # struct ucred: pid, uid, gid


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes are asked about. `pid` is the command's own; `daemon_pid` 0 where none
    answers."""

    data_dir: str
    pid: int
    socket_host: str
    docker_host: str
    is_docker_wanted: bool = False
    is_daemon_wanted: bool = False
    listen_host: str = "0.0.0.0"  # noqa: S104 - what the daemon listens on unless told otherwise
    listen_port: int = 2377
    daemon_pid: int = 0
    daemon_port: int = 0  # where the daemon says it listens for other nodes; 0: nowhere
    uid: int = 0

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    def scratch(self) -> str:
        """The folder to try things in, on the file system of the data: a probe makes it where it
        needs it. Looks at the disk, so it is asked for in probes alone."""
        return f"{nearest_existing(self.data_dir)}/.swarmlet-doctor-{self.pid}"


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended; `code` is negative where it was ended."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def problem(self) -> str:
        """Its first words where it failed, else ""."""
        if self.code == 0:
            return ""
        lines = [line.strip() for line in (self.err or self.out).splitlines()]
        words = [line for line in lines if line and not line.startswith(_NO_REASON)]
        if not words:
            return f"exit code {self.code}"
        logged = _LOGGED.search(words[0])
        return (logged[1] if logged else words[0]).removeprefix("Error: ").rstrip(".")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """An answer over HTTP; status 0 and `problem` where there was none, with its errno or 0."""

    status: int = 0
    body: Any = None
    problem: str = ""
    number: int = 0

    @property
    def is_object(self) -> bool:
        return self.status == 200 and isinstance(self.body, dict)

    def object(self, key: str) -> dict[str, Any]:
        """The object under `key`; empty where there is none."""
        found = self.body.get(key) if self.is_object else None
        return found if isinstance(found, dict) else {}


def nearest_existing(path: str) -> str:
    """`path`, or the lowest folder above it that exists."""
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def read(path: str) -> str | None:
    """A file's text, stripped; None where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def options_missing(names: Sequence[str]) -> tuple[str, ...]:
    """Those of these options that this kernel is built without; none where it does not tell."""
    text = _kernel_config()
    return tuple(name for name in names if text and f"\n{name}=" not in text)


def _kernel_config() -> str:
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return read(f"/boot/config-{os.uname().release}") or ""


def read_number(path: str) -> int | None:
    """A file that holds one number; None where it does not."""
    text = read(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def find(program: str) -> str:
    """Its path, or ""."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{PATH}") or ""


def run(*command: str, given: str = "", timeout_s: float = PROGRAM_TIMEOUT_S) -> Ran:
    """Run a program that `find` found, with `given` as its input."""
    try:
        ended = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env={"PATH": PATH, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return Ran(code=-9, err=f"{command[0]} did not end within {timeout_s:.0f} s")
    except OSError as error:
        return Ran(code=-1, err=f"{command[0]}: {error.strerror}")
    return Ran(code=ended.returncode, out=ended.stdout, err=ended.stderr)


class _Connection(http.client.HTTPConnection):
    """HTTP over the socket that `unix:///path` or `tcp://host:port` names."""

    def __init__(self, host: str, timeout_s: float) -> None:
        self._path = host.removeprefix(UNIX_PREFIX)
        where = host.partition("://")[2].rstrip("/") if host.startswith("tcp://") else "localhost"
        super().__init__(where, timeout=timeout_s)
        self._is_unix = where == "localhost" and not host.startswith("tcp://")

    def connect(self) -> None:
        if not self._is_unix:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(host: str, path: str, timeout_s: float = ASK_TIMEOUT_S) -> Asked:
    """GET `path` from an API of JSON. Never raises."""
    connection = None
    try:
        connection = _Connection(host, timeout_s)
        connection.request("GET", path, headers={"Host": "swarmlet", "Connection": "close"})
        reply = connection.getresponse()
        raw = reply.read(BODY_SIZE_MAX_B)
        return Asked(status=reply.status, body=json.loads(raw) if raw.strip() else None)
    except TimeoutError:
        return Asked(problem=f"no answer within {timeout_s:.0f} s")
    except OSError as error:
        return Asked(problem=error.strerror or str(error), number=error.errno or 0)
    except (http.client.HTTPException, ValueError):
        return Asked(problem="it does not answer in HTTP and JSON")
    finally:
        if connection is not None:
            connection.close()


def peer_pid(host: str) -> int:
    """The process that listens at a unix socket; 0 where none does, or it may not be known."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked, contextlib.suppress(OSError):
        asked.settimeout(ASK_TIMEOUT_S)
        asked.connect(host.removeprefix(UNIX_PREFIX))
        size_b = struct.calcsize(_UCRED)
        raw = asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size_b)
        return int(struct.unpack(_UCRED, raw)[0])
    return 0


def bind_problem(kind: str, host: str, port: int) -> int:
    """The errno with which this address and port cannot be bound; 0 where they can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, _KINDS[kind]) as trial:
        if kind == "tcp":  # as every server asks: connections that are ending do not count
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            return error.errno or 1
    return 0


def look_up(name: str) -> tuple[str, ...]:
    """The addresses of a host name, sorted; none where it has none. Takes as long as DNS does."""
    try:
        answers = socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return ()
    return tuple(sorted({str(answer[4][0]) for answer in answers}))


def mono_s() -> float:
    return monotonic()


def pause(duration_s: float) -> None:
    sleep(duration_s)


def clocks_s() -> tuple[float, float]:
    """(the wall clock, the monotonic clock), read together."""
    return clock_gettime(CLOCK_REALTIME), clock_gettime(CLOCK_MONOTONIC)

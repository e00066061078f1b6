"""HTTP/1.1 over a unix socket: exactly what the daemon's API needs, and nothing slow to import.

One connection is kept for the GETs of a command, because convergence polls; everything that changes
something gets a fresh one, so that it is never sent twice. Every wait has a deadline but that of a
followed log, which its reader ends.
"""

import json
import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import BufferedReader
from typing import Any, Final, NamedTuple

from swarmlet.cli.errors import ApiError, CommandError, TimedOutError, UnreachableError
from swarmlet.core.framing import Frame, Unpacker, pack
from swarmlet.core.paths import default_host, socket_path

API_PREFIX: Final = "/v1.52"
CONNECT_TIMEOUT_S: Final = 5.0  # the socket is on this host
REPLY_TIMEOUT_S: Final = 30.0  # the daemon itself answers or gives up within 20 s
WAIT_PERIOD_S: Final = 1.0
LINE_LENGTH_MAX_B: Final = 65_536  # a header line, or a chunk's size
HEADERS_MAX: Final = 100
BODY_SIZE_MAX_B: Final = 268_435_456  # 100,000 tasks are a quarter of this
READ_SIZE_B: Final = 65_536
LEADERLESS: Final = ("quorum-lost", "not-leader")  # codes of core/errors.py
STALE_HEADER: Final = "swarmlet-stale-ms"
_SWITCHED: Final = 101
_OK: Final = range(200, 300)
_WITHOUT_BODY: Final = (204, 304)
_UNRESERVED: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"
)

Json = Any
"""What a JSON text can be. The daemon's objects are dictionaries with Docker's field names."""
Object = dict[str, Any]
Headers = Mapping[str, str]
NO_HEADERS: Final[Headers] = {}


class Reply(NamedTuple):
    """The head of an answer; its body is still to be read."""

    status: int
    headers: Mapping[str, str]


OnStale = Callable[[ApiError, int], None]


class ForbiddenSocketError(UnreachableError):
    """There may be a daemon, but not for this user."""

    code = "socket-forbidden"


class BrokenOffError(CommandError):
    """Something answered, but not to the end, or not in HTTP."""

    code = "broken-off"


class _BrokenReplyError(Exception):
    """The connection ended, or what came is not HTTP."""


def quote(text: str) -> str:
    """`text` as one part of a path or query."""
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in raw)


class Client:
    """A daemon at `named` (unix:///path or a plain path), or at the default address for "".

    Connected to at the first call.
    Every call raises UnreachableError, TimedOutError, or ApiError with the daemon's own words.
    """

    def __init__(self, named: str = "") -> None:
        self.named = named
        self.on_wait: Callable[[], None] | None = None  # called every second an answer is awaited
        self._on_stale: OnStale | None = None
        self._is_stale = False
        self._kept: _Connection | None = None

    @property
    def host(self) -> str:
        """The address. Raises InvalidArgumentError where there is no place for a default one."""
        return self.named or default_host(os.environ, os.getuid(), os.path.exists)

    def allow_stale(self, on_stale: OnStale) -> None:
        """From now on a GET that fails for want of a leader gets what the daemon knows, and so do
        those that follow; `on_stale` hears why, and how old the first of it is in ms."""
        self._on_stale = on_stale

    def get(self, path: str, headers: Headers = NO_HEADERS, /, **query: str) -> Json:
        """The answer's JSON."""
        try:
            return self._get(path, headers, query)[0]
        except ApiError as error:
            if self._on_stale is None or self._is_stale or error.problem not in LEADERLESS:
                raise
            lost = error
        self._is_stale = True
        value, reply = self._get(path, headers, query)
        self._on_stale(lost, int(reply.headers.get(STALE_HEADER, "0")))
        return value

    def _get(self, path: str, headers: Headers, query: dict[str, str]) -> tuple[Json, Reply]:
        asked = {**query, "stale": "1"} if self._is_stale else query
        connection, reply = self._exchange("GET", _target(path, asked), None, headers)
        return self._answer(connection, reply), reply

    def post(
        self, path: str, body: Json = None, headers: Headers = NO_HEADERS, /, **query: str
    ) -> Json:
        """The answer's JSON, or None where it is empty."""
        return self._answer(*self._exchange("POST", _target(path, query), body, headers))

    def delete(self, path: str, **query: str) -> Json:
        return self._answer(*self._exchange("DELETE", _target(path, query), None))

    def raw_post(self, path: str) -> Json:
        """A POST outside Docker's API: the path is taken as it is."""
        return self._answer(*self._exchange("POST", path, None))

    def raw_get(self, path: str) -> bytes:
        """The body of an answer outside Docker's API, as it is."""
        connection, reply = self._exchange("GET", path, None)
        if reply.status not in _OK:
            self._answer(connection, reply)
        try:
            return connection.body(reply)
        except _BrokenReplyError:
            raise BrokenOffError(f"The answer from {self.host} is cut off.") from None
        finally:
            connection.close()

    def ping(self) -> bool:
        """Whether a daemon answers. Raises ForbiddenSocketError where that cannot be known."""
        try:
            connection, reply = self._exchange("GET", "/_ping", None)
            connection.close()
        except ForbiddenSocketError:
            raise
        except UnreachableError:
            return False
        return reply.status in _OK

    def stream(self, path: str, **query: str) -> Iterator[bytes]:
        """The answer's body as it comes; there is no deadline once it began."""
        connection, reply = self._begin_stream(path, query)
        connection.wait_for_ever()
        try:
            yield from connection.chunks(reply)
        except _BrokenReplyError:
            raise CommandError(
                f"The stream from {self.host} broke off.", "Ask again; the daemon may have stopped."
            ) from None
        finally:
            connection.close()

    def _begin_stream(self, path: str, query: dict[str, str]) -> tuple["_Connection", Reply]:
        """Its head; with what the daemon knows where nobody leads and that is allowed."""
        connection, reply = self._exchange("GET", _target(path, query), None)
        if reply.status in _OK:
            return connection, reply
        try:
            self._answer(connection, reply)
        except ApiError as error:
            may_be_stale = self._on_stale is not None and "stale" not in query
            if not may_be_stale or error.problem not in LEADERLESS:
                raise
            lost = error
        connection, reply = self._begin_stream(path, {**query, "stale": "1"})
        if self._on_stale is not None:
            self._on_stale(lost, int(reply.headers.get(STALE_HEADER, "0")))
        return connection, reply

    def upgrade(self, path: str, body: Json = None, **query: str) -> "Upgraded":
        """A connection of its own for frames both ways; the path is taken as it is. There is no
        deadline once it began."""
        target = _with_query(path, query)
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        connection, reply = self._exchange("POST", target, body, headers)
        if reply.status != _SWITCHED:
            self._answer(connection, reply)
            raise BrokenOffError(f"What answers at {self.host} does not switch protocols.")
        connection.wait_for_ever()
        return Upgraded(connection)

    def close(self) -> None:
        """Let go of the kept connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _exchange(
        self, method: str, target: str, body: Json, headers: Headers = NO_HEADERS
    ) -> tuple["_Connection", Reply]:
        """Send a request and read the head of its answer."""
        kept, self._kept = self._kept, None
        if kept is not None and method == "GET":
            with suppress(_BrokenReplyError):  # closed while idle: a GET may be sent again
                return kept, kept.exchange(method, target, body, headers)
        if kept is not None:
            kept.close()
        connection = _Connection(self.host, self.on_wait)
        try:
            return connection, connection.exchange(method, target, body, headers)
        except _BrokenReplyError:
            connection.close()
            raise BrokenOffError(
                f"What answers at {self.host} broke off, or does not speak HTTP.",
                "See the daemon's log, and check that this is the socket of a swarmlet daemon.",
            ) from None
        except BaseException:
            connection.close()
            raise

    def _answer(self, connection: "_Connection", reply: Reply) -> Json:
        try:
            raw = connection.body(reply)
            value = json.loads(raw) if raw.strip() else None
        except (_BrokenReplyError, ValueError):
            connection.close()
            raise CommandError(
                f"The answer from {self.host} is cut off or no JSON.", "See the daemon's log."
            ) from None
        if reply.headers.get("connection", "").lower() == "close":
            connection.close()
        else:
            self._kept = connection
        if reply.status not in _OK:
            raise _refusal(reply.status, value)
        return value


class Upgraded:
    """A connection after the switch. One thread may send while another reads; `close` ends both."""

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection

    def send(self, kind: int, payload: bytes = b"") -> bool:
        """Waits while the daemon does not read; False once it is gone, which `frames` tells."""
        try:
            self._connection.socket.sendall(pack(kind, payload))
        except OSError:
            return False
        return True

    def frames(self) -> Iterator[Frame]:
        """Until the connection ends, in order or not."""
        unpacker = Unpacker()
        with suppress(OSError, ValueError):  # closed here, or what comes is no frame
            while piece := self._connection.reader.read1(READ_SIZE_B):
                yield from unpacker.feed(piece)

    def close(self) -> None:
        with suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def interrupt(self) -> None:
        """End it for whoever reads, who closes it."""
        with suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)


class _Connection:
    def __init__(self, host: str, on_wait: Callable[[], None] | None = None) -> None:
        self.host, self.on_wait = host, on_wait
        path = socket_path(host)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(CONNECT_TIMEOUT_S)
        try:
            self.socket.connect(path)
        except OSError as error:
            self.socket.close()
            raise _unreachable(host, error) from None
        self.socket.settimeout(REPLY_TIMEOUT_S)
        self.reader = BufferedReader(self.socket.makefile("rb", buffering=0), READ_SIZE_B)

    def exchange(self, method: str, target: str, body: Json, headers: Headers) -> Reply:
        head = [f"{method} {target} HTTP/1.1", "Host: swarmlet", "User-Agent: swarmlet"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        raw = b""
        if body is not None:
            raw = json.dumps(body, separators=(",", ":")).encode()
            head += ["Content-Type: application/json"]
        if raw or method == "POST":
            head += [f"Content-Length: {len(raw)}"]
        try:
            self.socket.sendall("\r\n".join([*head, "", ""]).encode() + raw)
            self.wait()
            return self.head()
        except TimeoutError:
            raise self.timed_out() from None
        except OSError:
            raise _BrokenReplyError from None

    def wait(self) -> None:
        """Let somebody say how long it takes."""
        if self.on_wait is None:
            return
        for _ in range(int(REPLY_TIMEOUT_S / WAIT_PERIOD_S)):
            if select.select([self.socket], [], [], WAIT_PERIOD_S)[0]:
                return
            self.on_wait()
        raise TimeoutError

    def head(self) -> Reply:
        protocol, _, rest = self.line().partition(" ")
        if not protocol.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise _BrokenReplyError
        headers: dict[str, str] = {}
        for _ in range(HEADERS_MAX):
            if not (line := self.line()):
                return Reply(int(rest[:3]), headers)
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        raise _BrokenReplyError

    def line(self) -> str:
        raw = self.reader.readline(LINE_LENGTH_MAX_B)
        if not raw.endswith(b"\n"):
            raise _BrokenReplyError
        return raw.rstrip(b"\r\n").decode("latin-1")

    def body(self, reply: Reply) -> bytes:
        parts: list[bytes] = []
        size_b = 0
        for part in self.chunks(reply):
            size_b += len(part)
            if size_b > BODY_SIZE_MAX_B:
                raise _BrokenReplyError
            parts.append(part)
        return b"".join(parts)

    def chunks(self, reply: Reply) -> Iterator[bytes]:
        """The body in pieces, however it is delimited."""
        try:
            if reply.status in _WITHOUT_BODY:
                return
            if reply.headers.get("transfer-encoding", "").lower() == "chunked":
                yield from self.chunked()
            elif (length := reply.headers.get("content-length")) is not None:
                yield self.exactly(_number(length, 10))
            else:
                while piece := self.reader.read1(READ_SIZE_B):
                    yield piece
                self.close()
        except TimeoutError:
            raise self.timed_out() from None
        except OSError:
            raise _BrokenReplyError from None

    def chunked(self) -> Iterator[bytes]:
        while size := _number(self.line().partition(";")[0], 16):
            yield self.exactly(size)
            self.line()
        while self.line():  # trailers
            pass

    def exactly(self, size_b: int) -> bytes:
        if size_b > BODY_SIZE_MAX_B or len(raw := self.reader.read(size_b)) != size_b:
            raise _BrokenReplyError
        return raw

    def wait_for_ever(self) -> None:
        self.socket.settimeout(None)

    def timed_out(self) -> TimedOutError:
        return TimedOutError(
            f"The daemon at {self.host} did not answer within {REPLY_TIMEOUT_S:.0f} s; "
            "whether it did what it was asked is not known.",
            "Look with a listing, and in the daemon's log.",
        )

    def close(self) -> None:
        with suppress(OSError):
            self.reader.close()
            self.socket.close()


def _number(text: str, base: int) -> int:
    try:
        number = int(text.strip(), base)
    except ValueError:
        raise _BrokenReplyError from None
    if number < 0:
        raise _BrokenReplyError
    return number


def _target(path: str, query: Mapping[str, str]) -> str:
    return _with_query(f"{API_PREFIX}{path}", query)


def _with_query(path: str, query: Mapping[str, str]) -> str:
    pairs = "&".join(f"{quote(key)}={quote(value)}" for key, value in query.items())
    return f"{path}{'?' if pairs else ''}{pairs}"


def _unreachable(host: str, error: OSError) -> UnreachableError:
    if isinstance(error, PermissionError):
        return ForbiddenSocketError(
            f"You may not talk to the daemon at {host}.",
            "`sudo swarmlet ...`, or join the group that owns the socket (usually swarmlet).",
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return UnreachableError(
            f"No swarmlet daemon answers at {host}.",
            "`swarmlet init` starts one and makes a swarm, `swarmlet join` enters another host's; "
            "`swarmlet daemon` runs one here; --host or SWARMLET_HOST names another.",
        )
    return UnreachableError(
        f"The daemon at {host} cannot be reached: {error.strerror or 'no answer'}.",
        "Check the address: it is the path of the daemon's unix socket.",
    )


def _refusal(status: int, value: Json) -> ApiError:
    """The daemon's sentence, in this command's words."""
    answer = value if isinstance(value, dict) else {}
    message = str(answer.get("message") or f"The daemon answered with status {status}.")
    if message.startswith("rpc error: code = "):
        message = message.partition(" desc = ")[2] or message
    remedy, problem = str(answer.get("remedy") or ""), str(answer.get("code") or "")
    return ApiError(status, own_words(message.strip()), remedy, problem)


def own_words(message: str) -> str:
    """With this command where Docker's sentences name docker's."""
    return message.replace('"docker swarm ', '"swarmlet ').replace(
        '"docker info"', '"swarmlet info"'
    )

"""A scripted daemon: real sockets, canned answers, and a record of what it was asked."""

import json
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from swarmlet.cli.client import API_PREFIX

Headers = Mapping[str, str]
NO_HEADERS: Headers = {}
Answer = tuple[int, Any] | tuple[int, Any, Headers]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


def send_headers(handler: BaseHTTPRequestHandler, headers: Headers) -> None:
    for name, value in headers.items():
        handler.send_header(name, value)


@dataclass
class ScriptedDaemon:
    """`script` maps "GET /nodes" to an answer, answers (the last one stays), or a function."""

    socket_path: str
    script: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def start(self) -> Callable[[], None]:
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                daemon.connections += 1
                super().setup()

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                raw = self.rfile.read(length)
                url = urlsplit(self.path)
                path = url.path.removeprefix(API_PREFIX)
                request = Request(
                    self.command,
                    path,
                    dict(parse_qsl(url.query)),
                    json.loads(raw) if raw else None,
                    dict(self.headers.items()),
                )
                daemon.requests.append(request)
                status, body, *headers = daemon.answer(request)
                self.reply(status, body, *headers)

            do_GET = do_POST = do_DELETE = handle_any

            def reply(self, status: int, body: Any, headers: Headers = NO_HEADERS) -> None:
                self.send_response(status)
                send_headers(self, headers)
                if isinstance(body, list) and body and isinstance(body[0], bytes):
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    for piece in body:
                        self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    self.wfile.write(b"0\r\n\r\n")
                    return
                raw = b"" if body is None else json.dumps(body).encode()
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_args: object) -> None:
                """Tests read `requests`."""

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that hung up is no error here."""
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, client_address)

        server = Server(self.socket_path, Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()

        def stop() -> None:
            server.shutdown()
            thread.join()
            server.server_close()

        return stop

    def answer(self, request: Request) -> Answer:
        found = self.script.get(f"{request.method} {request.path}")
        if isinstance(found, list) and found and isinstance(found[0], tuple):
            found = found.pop(0) if len(found) > 1 else found[0]
        if callable(found):
            found = found(request)
        if found is None:
            return 404, {"message": f"page not found: {request.method} {request.path}"}
        return found

    def posted(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

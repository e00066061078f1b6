#!/usr/bin/env python3
"""A small web server for a service. It listens on $PORT, the port its task was given.

Needs nothing but Python's standard library.
"""

import os
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8000"))
STARTED = time.strftime("%H:%M:%S")


class Hello(BaseHTTPRequestHandler):
    """Every path answers the same sentence."""

    def do_GET(self) -> None:
        body = f"hello from {socket.gethostname()}:{PORT}, here since {STARTED}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def stop(_signal: int, _frame: object) -> None:
    """End at once when the task is stopped."""
    sys.exit(0)


signal.signal(signal.SIGTERM, stop)
print(f"listening on port {PORT}", flush=True)
ThreadingHTTPServer(("", PORT), Hello).serve_forever()

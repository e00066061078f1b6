"""A registry for the engine's network namespace:
`python -m tests.docker.registry LOG`. Prints its port; notes each request in LOG.

It wants the account user:secret. `slow/...` takes a second for its manifest.
"""

import base64
import gzip
import hashlib
import io
import json
import sys
import tarfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.docker.engine import _busybox_tar

TYPE = "application/vnd.docker.distribution.manifest.v2+json"
ACCOUNT = "Basic " + base64.b64encode(b"user:secret").decode()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def content(mark: str) -> dict[str, bytes]:
    """The blobs of an image of its own for each `mark`, and its manifest under ""."""
    layer = io.BytesIO(_busybox_tar())
    with tarfile.open(fileobj=layer, mode="a") as tar:
        tar.addfile(tarfile.TarInfo("mark-" + mark.replace("/", "-")))
    layer_bytes = layer.getvalue()
    packed = gzip.compress(layer_bytes, 1, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer_bytes)]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": TYPE,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": len(config),
            "digest": digest(config),
        },
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": len(packed),
                "digest": digest(packed),
            }
        ],
    }
    return {digest(config): config, digest(packed): packed, "": json.dumps(manifest).encode()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log_path = ""
    made: dict[str, dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        with open(self.log_path, "a") as log:
            log.write(f"{self.command} {self.path}\n")
        name, kind, last = ([*self.path.removeprefix("/v2/").rsplit("/", 2), "", ""])[:3]
        if self.path == "/v2/":
            return self._refuse(401, "UNAUTHORIZED", "how to log in")
        if self.headers["Authorization"] != ACCOUNT:
            return self._refuse(401, "UNAUTHORIZED", "authentication required")
        if name.startswith("forbidden/"):
            return self._refuse(403, "DENIED", "not for you")
        if not name.startswith(("private/", "slow/", "open/")):
            return self._refuse(404, "NAME_UNKNOWN", "repository name not known to registry")
        blobs = self.made.setdefault(name, content(name))
        if name.startswith("slow/") and kind == "manifests":
            time.sleep(1)
        key = "" if kind == "manifests" else last
        return self._answer(200, blobs[key], TYPE if not key else "application/octet-stream")

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self._answer(status, body, "application/json")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Content-Digest", digest(body))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Its log is a file."""


if __name__ == "__main__":
    Handler.log_path = sys.argv[1]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()

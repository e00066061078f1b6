"""A small external CA: cfssl's sign endpoint over https, with the profiles of `certs/cfssl.json`.

It refuses what cfssl refuses, with cfssl's statuses and shapes, and believes of a request what
cfssl believes: key and signature of the CSR, subject and hosts of the request, extensions its
profile allows.
"""

import json
import re
import ssl
import threading
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from swarmlet.ca.keys import new_serial, sign_certificate, signing_key_from_pem
from swarmlet.ca.root import authority_key, moment
from tests.ca.fixtures import NOW_MS, seeded, server

PROFILES = json.loads((Path(__file__).parent.parent.parent / "certs/cfssl.json").read_text())
PATH = "/api/v1/cfssl/sign"
NAMES = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
}
USES = {
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
}
FLAGS = {
    "signing": "digital_signature",
    "key encipherment": "key_encipherment",
    "cert sign": "key_cert_sign",
    "crl sign": "crl_sign",
}
ALL_FLAGS = [
    *FLAGS.values(),
    *("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
]


class RefusedError(Exception):
    """cfssl's answer to what it will not do."""

    def __init__(self, code, message, status=400):
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


def hours(text):
    return timedelta(hours=int(re.fullmatch(r"(\d+)h", text)[1]))


class Authority:
    """Signs as `root`. `now_ms` is its clock; `tamper` changes a request before it is signed, for
    an authority that signs something else."""

    def __init__(self, root, now_ms=NOW_MS, tamper=None):
        self.root, self.now_ms, self.tamper = root, now_ms, tamper
        self.entropy = seeded(11)
        self.requests = []

    def sign(self, request):
        self.requests.append(request)
        csr = self.checked(request.get("certificate_request", ""))
        profile = self.profile(request.get("profile", ""))
        if self.tamper is not None:
            request, csr = self.tamper(dict(request), csr)
        made = sign_certificate(
            self.builder(request, csr, profile), signing_key_from_pem(self.root.key_pem)
        )
        return made.public_bytes(serialization.Encoding.PEM).decode()

    @staticmethod
    def checked(pem):
        try:
            csr = x509.load_pem_x509_csr(pem.encode())
        except ValueError as error:
            raise RefusedError(9002, "Failed to decode certificate request") from error
        if not csr.is_signature_valid:
            raise RefusedError(9003, "CSR signature verification failed")
        return csr

    @staticmethod
    def profile(name):
        signing = PROFILES["signing"]
        if not name:
            return signing["default"]
        if name not in signing["profiles"]:
            raise RefusedError(5200, f"Invalid policy: unknown profile {name}")
        return signing["profiles"][name]

    def builder(self, request, csr, profile):
        issuer = x509.load_pem_x509_certificate(self.root.cert_pem)
        begins = moment(self.now_ms) - hours(profile["backdate"])
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject(request.get("subject"), csr))
            .issuer_name(issuer.subject)
            .public_key(csr.public_key())
            .serial_number(new_serial(self.entropy))
            .not_valid_before(begins)
            .not_valid_after(begins + hours(profile["expiry"]))
        )
        for extension, is_critical in self.extensions(request, csr, profile, issuer):
            builder = builder.add_extension(extension, is_critical)
        return builder

    @staticmethod
    def subject(asked, csr):
        if not asked:
            return csr.subject
        pairs = [(NAMES[kind], value) for each in asked["names"] for kind, value in each.items()]
        if asked["CN"]:
            pairs.append((NameOID.COMMON_NAME, asked["CN"]))
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])

    @staticmethod
    def extensions(request, csr, profile, issuer):
        is_ca = profile.get("ca_constraint", {}).get("is_ca", False)
        for extension in request.get("extensions", []):
            if extension["id"] not in profile.get("allowed_extensions", []):
                raise RefusedError(5300, f"extension {extension['id']} not allowed")
            is_ca = ObjectIdentifier(extension["id"]) == x509.BasicConstraints.oid
        given = [FLAGS[use] for use in profile["usages"] if use in FLAGS]
        yield x509.BasicConstraints(ca=is_ca, path_length=None), True
        yield x509.KeyUsage(**{flag: flag in given for flag in ALL_FLAGS}), True
        uses = [USES[use] for use in profile["usages"] if use in USES]
        if uses:
            yield x509.ExtendedKeyUsage(uses), False
        if request.get("hosts"):
            names = [x509.DNSName(name) for name in request["hosts"]]
            yield x509.SubjectAlternativeName(names), False
        yield x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), False
        yield authority_key(issuer), False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_GET(self):
        self.answer(405, error={"code": 405, "message": "Method not allowed: GET"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != PATH:
            self.answer(404, error={"code": 404, "message": "not found"})
            return
        if self.server.canned is not None:
            self.send(*self.server.canned)
            return
        try:
            request = json.loads(body)
            self.answer(200, result={"certificate": self.server.authority.sign(request)})
        except ValueError:
            self.answer(400, error={"code": 400, "message": "Unable to parse sign request"})
        except RefusedError as error:
            self.answer(error.status, error={"code": error.code, "message": error.message})

    def answer(self, status, *, result=None, error=None):
        errors = [] if error is None else [error]
        said = {"success": error is None, "result": result, "errors": errors, "messages": []}
        self.send(status, json.dumps(said).encode())

    def send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        pass


class _Server(ThreadingHTTPServer):
    """Each handshake in its connection's own thread."""

    daemon_threads = True
    context = None
    authority = None
    canned = None

    def finish_request(self, request, client_address):
        request.settimeout(5)
        with self.context.wrap_socket(request, server_side=True) as tls:
            self.RequestHandlerClass(tls, client_address, self)

    def handle_error(self, _request, _client_address):
        pass  # clients that trust somebody else hang up in the handshake


@contextmanager
def external_ca(authority, tmp_path, *, tls=None, clients_of=None, canned=None):
    """The URL of a running one. `tls`: certificate and key of its server, by default of its own
    root and of today; `clients_of`: asks for a certificate of this root; `canned`: status and body
    of every answer."""
    certificate, key = tls or server(authority.root, seeded(13), authority.now_ms)
    pair = tmp_path / "server.pem"
    pair.write_bytes(key + certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair)
    if clients_of is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients_of.decode())
    with _Server(("127.0.0.1", 0), _Handler) as running:
        running.context, running.authority, running.canned = context, authority, canned
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"https://127.0.0.1:{running.server_address[1]}{PATH}"
        finally:
            running.shutdown()
            thread.join()

"""A CA in memory for tests of nodes: it signs, rotates its root, and answers as a port would."""

from dataclasses import dataclass, field
from random import Random

from swarmlet.ca.csr import public_key_of
from swarmlet.ca.identity import verify_chain
from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.join_token import cert_digest, new_join_token
from swarmlet.ca.keys import key_to_pem, new_key
from swarmlet.ca.root import Signer, new_root
from swarmlet.ca.rotation import cross_sign
from swarmlet.ca.unlock_key import UNLOCKED, Kek, answer_of
from swarmlet.core.errors import NotFoundError, UnauthorizedError, UnavailableError
from swarmlet.core.ids import ClusterID, new_id
from swarmlet.core.limits import NODE_CERT_EXPIRY_NS
from swarmlet.model.node import IssuanceState
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.node_api import CertificateStatus, CertificateTicket, PortHello


@dataclass
class Row:
    role: str
    csr: str = ""
    chain: str = ""
    state: int = IssuanceState.ISSUED
    err: str = ""


@dataclass
class Swarm:
    """`wall_ms`: the managers' clock. What `fails` says is raised by the next call of that name."""

    wall_ms: object
    seed: int = 1
    expiry_ns: int = NODE_CERT_EXPIRY_NS
    is_signing: bool = True
    is_away: bool = False
    loses_answers: bool = False
    protocol: int = 1
    kek: Kek = UNLOCKED
    token_role: str = "worker"
    rows: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)
    fails: dict = field(default_factory=dict)

    def __post_init__(self):
        self.entropy = Random(f"{self.seed}/swarm").randbytes
        self.root = new_root(self.wall_ms(), self.entropy)
        self.signer = Signer(cert_pem=self.root.cert_pem, key_pem=self.root.key_pem)
        self.cluster_id = ClusterID(new_id(self.entropy))
        self.token = new_join_token(cert_digest(self.root.cert_pem), self.entropy)
        self.renew_manager()

    # What a leader does

    def credentials(self, role="worker", node_id=None):
        """Of a node that is in the swarm already."""
        key, node_id = new_key(self.entropy), node_id or new_id(self.entropy)
        chain = self.signed(key.public_key(), node_id, role)
        self.rows[node_id] = Row(role=role, chain=chain.decode())
        return Credentials(root_pem=self.root.cert_pem, chain_pem=chain, key_pem=key_to_pem(key))

    def renew_manager(self):
        self.manager = self.credentials("manager", "manager1")

    def signed(self, public_key, node_id, role):
        return issue(
            self.signer,
            public_key,
            Subject(node_id, role, self.cluster_id),
            now_ms=self.wall_ms(),
            expiry_ns=self.expiry_ns,
            entropy=self.entropy,
        )

    def begin_rotation(self):
        self.target = new_root(self.wall_ms(), self.entropy)
        old = Signer(cert_pem=self.root.cert_pem, key_pem=self.root.key_pem)
        self.signer = Signer(
            cert_pem=self.target.cert_pem,
            key_pem=self.target.key_pem,
            intermediates_pem=cross_sign(old, self.target.cert_pem, self.entropy),
        )
        self.renew_manager()

    def end_rotation(self):
        self.root = self.target
        self.signer = Signer(cert_pem=self.root.cert_pem, key_pem=self.root.key_pem)
        self.token = new_join_token(cert_digest(self.root.cert_pem), self.entropy)

    # CertificateSource of a node

    def source(self, own):
        return Source(self, own)

    def taken_down(self, csr, node_id):
        row = self.rows[node_id]
        if row.csr != csr or row.state == IssuanceState.FAILED:
            row.csr, row.state = csr, IssuanceState.RENEW
        return node_id

    def joined(self, csr, token):
        known = [node_id for node_id, row in self.rows.items() if row.csr == csr]
        if known:
            return known[0]
        if token != self.token:
            raise UnauthorizedError("The join token is not (or no longer) valid.")
        node_id = new_id(self.entropy)
        self.rows[node_id] = Row(role=self.token_role)
        return self.taken_down(csr, node_id)

    def status(self, node_id):
        if node_id not in self.rows:
            raise NotFoundError("node", node_id)
        row = self.rows[node_id]
        if row.state in (IssuanceState.RENEW, IssuanceState.PENDING) and self.is_signing:
            key = public_key_of(row.csr.encode())
            row.chain = self.signed(key, node_id, row.role).decode()
            row.state = IssuanceState.ISSUED
        return CertificateStatus(
            state=row.state, role=row.role, csr=row.csr, chain=row.chain, err=row.err
        )

    def told_key(self, credentials):
        self.called("unlock_key")
        assert verify_chain(credentials.chain_pem, self.root.cert_pem, None).role == "manager"
        return answer_of(self.kek)

    def called(self, name):
        self.calls.append(name)
        if self.is_away:
            raise UnavailableError("Nobody answers.")
        if self.fails.get(name):
            raise self.fails[name].pop(0)

    def check_tls(self, credentials):
        """Each side verifies the other; whose certificate expired is for others to judge."""
        verify_chain(self.manager.chain_pem, credentials.root_pem, None)
        if credentials.chain_pem:
            return verify_chain(credentials.chain_pem, self.root.cert_pem, None).node_id
        return ""


class Source:
    def __init__(self, swarm, own):
        self.swarm, self.own = swarm, own

    async def request(self, csr_pem):
        self.swarm.called("request")
        node_id = self.swarm.check_tls(self.own.credentials)
        self.swarm.taken_down(csr_pem.decode(), node_id)
        if self.swarm.loses_answers:
            self.swarm.status(node_id)
            raise UnavailableError("The answer got lost.")
        return node_id

    async def status(self, node_id):
        self.swarm.called("status")
        self.swarm.check_tls(self.own.credentials)
        return self.swarm.status(node_id)

    async def root(self):
        self.swarm.called("root")
        return self.swarm.root.cert_pem

    async def unlock_key(self, credentials):
        return self.swarm.told_key(credentials)


@dataclass
class Link:
    """NodeLink of a node that joins: swarms by address."""

    swarms: dict

    def at(self, addr, name):
        if addr not in self.swarms:
            raise UnavailableError(f"Nobody listens at {addr}.")
        swarm = self.swarms[addr]
        swarm.called(name)
        return swarm

    async def hello(self, addr):
        swarm = self.at(addr, "hello")
        return PortHello(
            protocol=swarm.protocol,
            node_id="manager1",
            cluster_id=swarm.cluster_id,
            now_ms=swarm.wall_ms(),
        )

    async def root(self, addr):
        return self.at(addr, "root").root.cert_pem

    async def request_certificate(self, addr, request, credentials):
        swarm = self.at(addr, "request")
        peer = swarm.check_tls(credentials)
        if request.token:
            node_id = swarm.joined(request.csr, request.token)
        else:
            node_id = swarm.taken_down(request.csr, peer)
        if swarm.loses_answers:
            raise UnavailableError("The answer got lost.")
        return CertificateTicket(node_id=node_id)

    async def certificate_status(self, addr, node_id, credentials):
        swarm = self.at(addr, "status")
        swarm.check_tls(credentials)
        return swarm.status(node_id)

    async def unlock_key(self, addr, credentials):
        return self.at(addr, "key").told_key(credentials)

"""A swarm's CA for tests: credentials for whoever is asked for."""

from random import Random

from swarmlet.ca.identity import verify_chain
from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.keys import key_to_pem, new_key
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.ca.root import Signer, new_root
from swarmlet.core.limits import NODE_CERT_EXPIRY_NS
from swarmlet.wire.credentials import Credentials

CLUSTER = "c"


class SwarmCA:
    """`now_ms`: when its root begins, and certificates unless told otherwise."""

    def __init__(self, now_ms: int, seed: int = 1, cluster_id: str = CLUSTER) -> None:
        self.entropy = Random(seed).randbytes
        self.now_ms, self.cluster_id = now_ms, cluster_id
        self.root: Signer = new_root(now_ms, self.entropy)

    @property
    def root_pem(self) -> bytes:
        return self.root.cert_pem

    def credentials(
        self,
        node_id: str,
        role: str = "worker",
        *,
        now_ms: int | None = None,
        expiry_ns: int = NODE_CERT_EXPIRY_NS,
        signer: Signer | None = None,
    ) -> Credentials:
        key = new_key(self.entropy)
        chain_pem = issue(
            signer or self.root,
            key.public_key(),
            Subject(node_id, role, self.cluster_id),
            now_ms=self.now_ms if now_ms is None else now_ms,
            expiry_ns=expiry_ns,
            entropy=self.entropy,
        )
        return Credentials(root_pem=self.root_pem, chain_pem=chain_pem, key_pem=key_to_pem(key))

    def own(self, node_id: str, role: str = "worker", **options) -> OwnIdentity:
        credentials = self.credentials(node_id, role, **options)
        return OwnIdentity(
            credentials, verify_chain(credentials.chain_pem, credentials.root_pem, None)
        )

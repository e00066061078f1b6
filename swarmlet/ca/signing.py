"""The CA as its leader has it: an external one where one is named, else the swarm's own key."""

from swarmlet.ca.csr import public_key_of
from swarmlet.ca.external import ExternalSigner, signing_authorities
from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.rotation import signer_of
from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.env.base import Env
from swarmlet.model.cluster import Cluster


class SwarmAuthority:
    """Signs what the cluster's row says, each time anew."""

    def __init__(self, env: Env, external: ExternalSigner) -> None:
        self._env, self._external = env, external

    async def sign(self, cluster: Cluster, csr_pem: bytes, node_id: NodeID, role: str) -> bytes:
        """The chain, leaf first, PEM. Raises UnavailableError where another try may succeed;
        InvalidArgumentError, FailedPreconditionError where none will."""
        root_ca, config = cluster.root_ca, cluster.spec.ca_config
        public_key, subject = public_key_of(csr_pem), Subject(node_id, role, cluster.id)
        now_ms = self._env.clock.wall_ms()
        authorities = signing_authorities(root_ca, config)
        if authorities.members:
            return await self._external.sign(authorities, csr_pem, subject, now_ms)
        signer = signer_of(root_ca)
        if signer is None:
            raise UnavailableError(
                "Nobody can sign certificates: the swarm has no key for its root CA, and no "
                "external CA is set for it.",
                remedy="Name one: `swarmlet ca --external-ca protocol=cfssl,url=https://...`.",
            )
        return issue(
            signer,
            public_key,
            subject,
            now_ms=now_ms,
            expiry_ns=config.node_cert_expiry,
            entropy=self._env.entropy,
        )

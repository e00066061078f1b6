"""The swarm: `GET /swarm` and the same without its join tokens inside `GET /info`."""

from functools import lru_cache

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from swarmlet.api.render.common import ObjectVersion, rfc3339
from swarmlet.ca.unlock_key import kek_of, unlock_key_text
from swarmlet.core.limits import ADDR_POOL, VXLAN_PORT
from swarmlet.model.base import ApiStruct, always
from swarmlet.model.cluster import Cluster, JoinTokens, RootCA, SwarmSpec
from swarmlet.model.node import TLSInfo


class ClusterJson(ApiStruct, frozen=True, kw_only=True):
    id: str
    version: ObjectVersion
    created_at: str
    updated_at: str
    spec: SwarmSpec
    tls_info: TLSInfo
    root_rotation_in_progress: bool = always(False)
    default_addr_pool: list[str] | None = always(None)
    subnet_size: int = always(0)
    data_path_port: int = always(0)
    join_tokens: JoinTokens | None = None


@lru_cache(maxsize=4)
def tls_info(root_pem: bytes, signer_pem: bytes = b"") -> TLSInfo:
    """What clients compare a node's trust with: the root that is trusted, and who signs (the root
    itself, where no other signer is given)."""
    if not root_pem:
        return TLSInfo()
    signer = x509.load_pem_x509_certificate(signer_pem or root_pem)
    return TLSInfo(
        trust_root=root_pem.decode(),
        cert_issuer_subject=signer.subject.public_bytes(),
        cert_issuer_public_key=signer.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        ),
    )


def _shown_tls_info(root: RootCA) -> TLSInfo:
    """During a rotation the old root is trusted and the new one signs: as Docker shows it."""
    return tls_info(root.cert_pem, root.rotation.cert_pem if root.rotation is not None else b"")


def _shown_spec(spec: SwarmSpec) -> SwarmSpec:
    """Signing certificate and key are taken, never shown."""
    ca = msgspec.structs.replace(spec.ca_config, signing_ca_cert="", signing_ca_key="")
    return msgspec.structs.replace(spec, ca_config=ca)


def _shown_pools(cluster: Cluster) -> list[str] | None:
    """Null for a client that sent an empty list, the default for one that sent none: as Docker."""
    if cluster.default_addr_pool:
        return list(cluster.default_addr_pool)
    return None if cluster.addr_pool_given else [ADDR_POOL]


def render_cluster(cluster: Cluster, *, with_tokens: bool) -> ClusterJson:
    return ClusterJson(
        id=cluster.id,
        version=ObjectVersion(index=cluster.version),
        created_at=rfc3339(cluster.created_ms),
        updated_at=rfc3339(cluster.updated_ms),
        spec=_shown_spec(cluster.spec),
        tls_info=_shown_tls_info(cluster.root_ca),
        root_rotation_in_progress=cluster.root_ca.rotation is not None,
        default_addr_pool=_shown_pools(cluster),
        subnet_size=cluster.subnet_size,
        data_path_port=cluster.vxlan_port or VXLAN_PORT,
        join_tokens=cluster.root_ca.tokens if with_tokens else None,
    )


def render_unlock_key(cluster: Cluster) -> str:
    """The key for a locked manager, or "" where the swarm does not lock its managers."""
    return unlock_key_text(kek_of(cluster).key)

"""The first transaction of a swarm: its cluster object, its first node, its predefined networks."""

import ipaddress
from typing import Final

import msgspec

from swarmlet.ca.join_token import cert_digest, new_join_token
from swarmlet.ca.root import Root
from swarmlet.ca.unlock_key import unlock_keys_with
from swarmlet.core.ids import ClusterID, Entropy, NetworkID, NodeID, new_id
from swarmlet.core.limits import ADDR_POOL, SUBNET_SIZE
from swarmlet.model.base import hidden
from swarmlet.model.change import Change, Create
from swarmlet.model.cluster import Cluster, EncryptionKey, JoinTokens, RootCA, SwarmSpec
from swarmlet.model.network import IPAM, IPAMPool, Network, NetworkSpec
from swarmlet.model.node import ManagerStatus, Node, NodeCertificate, NodeSpec
from swarmlet.store.proposer import Member

INGRESS_VXLAN_ID: Final = 4096  # the first a swarm hands out; SwarmKit allocator
VXLAN_OPTION: Final = "com.docker.network.driver.overlay.vxlanid_list"
PREDEFINED_LABEL: Final = "com.docker.swarm.predefined"
CERTIFICATE_ISSUED: Final = 3  # behaviour of SwarmKit's IssuanceStateIssued
KEY_SUBSYSTEMS: Final = ("networking:gossip", "networking:ipsec")  # SwarmKit keymanager
KEYS_PER_SUBSYSTEM: Final = 3
KEY_SIZE_B: Final = 16  # AES-128-GCM


class Founding(msgspec.Struct, frozen=True, kw_only=True):
    """What the first manager brings to a new swarm. `certificate` is its own, PEM."""

    cluster_id: ClusterID
    node_id: NodeID
    member: Member
    spec: SwarmSpec
    root: Root
    certificate: bytes
    availability: str = "active"
    addr_pool: tuple[str, ...] | None = None  # None: the user gave none
    subnet_size: int = 0
    vxlan_port: int = 0
    unlock_key: bytes = b""  # what the managers are locked with; empty: they are not

    __repr__ = hidden


def first_changes(founding: Founding, entropy: Entropy) -> list[Change]:
    """All objects a swarm begins with, to be committed in one transaction."""
    return [
        Create(obj=_cluster(founding, entropy)),
        Create(obj=_node(founding)),
        Create(obj=_ingress(founding, entropy)),
        Create(obj=_host_network(entropy)),
    ]


def ingress_subnet(pools: tuple[str, ...], subnet_size: int) -> IPAMPool:
    """The first subnet of the first pool, its first address the gateway."""
    pool = ipaddress.ip_network(pools[0] if pools else ADDR_POOL)
    prefix = max(pool.prefixlen, subnet_size or SUBNET_SIZE)
    first = f"{pool.network_address}/{prefix}"
    return IPAMPool(subnet=first, gateway=str(pool.network_address + 1))


def _cluster(founding: Founding, entropy: Entropy) -> Cluster:
    digest = cert_digest(founding.root.cert_pem)
    tokens = JoinTokens(
        worker=new_join_token(digest, entropy), manager=new_join_token(digest, entropy)
    )
    lamport = int.from_bytes(entropy(2), "big")
    keys = [(name, turn) for turn in range(KEYS_PER_SUBSYSTEM) for name in KEY_SUBSYSTEMS]
    return Cluster(
        id=founding.cluster_id,
        spec=founding.spec,
        root_ca=RootCA(
            cert_pem=founding.root.cert_pem,
            key_pem=founding.root.key_pem,
            cert_digest=digest,
            tokens=tokens,
            last_forced_rotation=founding.spec.ca_config.force_rotate,
        ),
        default_addr_pool=founding.addr_pool or (),
        addr_pool_given=founding.addr_pool is not None,
        subnet_size=founding.subnet_size or SUBNET_SIZE,
        vxlan_port=founding.vxlan_port,
        key_ring=tuple(
            EncryptionKey(subsystem=name, key=entropy(KEY_SIZE_B), lamport_time=lamport + turn)
            for name, turn in keys
        ),
        key_lamport=lamport + KEYS_PER_SUBSYSTEM,
        unlock_keys=unlock_keys_with(founding.unlock_key),
    )


def _node(founding: Founding) -> Node:
    return Node(
        id=founding.node_id,
        spec=NodeSpec(role="manager", availability=founding.availability or "active"),
        role="manager",
        certificate=NodeCertificate(
            state=CERTIFICATE_ISSUED, certificate=founding.certificate, role="manager"
        ),
        manager=ManagerStatus(raft_id=founding.member.raft_id, addr=founding.member.address),
    )


def _ingress(founding: Founding, entropy: Entropy) -> Network:
    return Network(
        id=NetworkID(new_id(entropy)),
        spec=NetworkSpec(
            name="ingress", driver="overlay", ingress=True, ipam=IPAM(driver="default")
        ),
        pools=(ingress_subnet(founding.addr_pool or (), founding.subnet_size),),
        driver_options={VXLAN_OPTION: str(INGRESS_VXLAN_ID)},
    )


def _host_network(entropy: Entropy) -> Network:
    return Network(
        id=NetworkID(new_id(entropy)),
        spec=NetworkSpec(name="host", driver="host", labels={PREDEFINED_LABEL: "true"}),
        predefined=True,
    )

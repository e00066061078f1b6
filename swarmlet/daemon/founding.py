"""Becoming the first node of a new swarm: ids, root, certificate, files, first transaction."""

import msgspec

from swarmlet.api.engine import InitRequest
from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.keys import new_key
from swarmlet.ca.node_files import NodeFiles, new_node_keys
from swarmlet.ca.root import new_root
from swarmlet.core.ids import ClusterID, NodeID, RaftID, new_id
from swarmlet.core.limits import UINT63_MAX
from swarmlet.daemon.addresses import Addresses, join_addr, split_addr
from swarmlet.daemon.data_dir import DataDir, SwarmFile
from swarmlet.env.base import Env
from swarmlet.env.sealed import new_seal_key
from swarmlet.manager.bootstrap import Founding
from swarmlet.store.proposer import Member

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to write where, once the first transaction is committed."""

    founding: Founding
    file: SwarmFile


def plan_swarm(env: Env, addresses: Addresses, request: InitRequest, runtime: str) -> Plan:
    """Choose every id and address of a new swarm. Raises InvalidArgumentError,
    FailedPreconditionError.
    """
    listen = split_addr(request.listen_addr or WILDCARDS[0], "listen address")
    addresses.check_free(*listen)
    host, port = _advertised(addresses, request.advertise_addr, listen)
    node_id, cluster_id = NodeID(new_id(env.entropy)), ClusterID(new_id(env.entropy))
    member = Member(
        raft_id=RaftID(int.from_bytes(env.entropy(8), "big") & UINT63_MAX or 1),
        node_id=node_id,
        address=join_addr(host, port),
    )
    founding = Founding(
        cluster_id=cluster_id,
        node_id=node_id,
        member=member,
        spec=request.spec,
        root=new_root(env.clock.wall_ms(), env.entropy),
        certificate=b"",
        availability=request.availability,
        addr_pool=request.default_addr_pool,
        subnet_size=request.subnet_size,
        vxlan_port=request.data_path_port,
    )
    file = SwarmFile(
        node_id=node_id,
        cluster_id=cluster_id,
        raft_id=member.raft_id,
        listen_addr=join_addr(*listen),
        advertise_addr=member.address,
        runtime=runtime,
    )
    return Plan(founding=founding, file=file)


def write_identity(env: Env, data: DataDir, plan: Plan) -> Plan:
    """Make this node's key and certificate and store them; the plan with the certificate in it."""
    founding, key = plan.founding, new_key(env.entropy)
    certificate = issue(
        founding.root,
        key.public_key(),
        Subject(founding.node_id, "manager", founding.cluster_id),
        now_ms=env.clock.wall_ms(),
        expiry_ns=founding.spec.ca_config.node_cert_expiry,
        entropy=env.entropy,
    )
    keys = new_node_keys(key, new_seal_key(env.entropy), new_seal_key(env.entropy))
    NodeFiles(env.disk, data.certificates).write(founding.root.cert_pem, certificate, keys)
    return msgspec.structs.replace(
        plan, founding=msgspec.structs.replace(founding, certificate=certificate)
    )


def _advertised(addresses: Addresses, text: str, listen: tuple[str, int]) -> tuple[str, int]:
    """What others are told: what the user said, else the listen address, else this host's own."""
    if text:
        return split_addr(text, "advertise address", listen[1])
    return (addresses.own() if listen[0] in WILDCARDS else listen[0]), listen[1]

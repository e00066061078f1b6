"""Becoming the first node of a new swarm: ids, root, certificate, files, first transaction."""

import msgspec

from swarmlet.api.engine import InitRequest
from swarmlet.ca.csr import new_csr, public_key_of
from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.key_file import new_node_keys
from swarmlet.ca.keys import new_key
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.root import new_root
from swarmlet.ca.unlock_key import Kek, new_unlock_key
from swarmlet.core.ids import ClusterID, NodeID, RaftID, new_id
from swarmlet.core.limits import UINT63_MAX
from swarmlet.daemon.addresses import Addresses, Place, choose_place
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.env.base import Env
from swarmlet.env.sealed import new_seal_key
from swarmlet.manager.bootstrap import Founding
from swarmlet.manager.control import accepted_swarm
from swarmlet.model.address import address_pools, data_path_port
from swarmlet.model.validate import check_availability
from swarmlet.store.proposer import Member


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to write where, once the first transaction is committed."""

    founding: Founding
    file: SwarmFile


async def plan_swarm(env: Env, addresses: Addresses, request: InitRequest, runtime: str) -> Plan:
    """Choose every id and address of a new swarm. Raises InvalidArgumentError,
    FailedPreconditionError.
    """
    place = await choose_place(
        env,
        addresses,
        listen=request.listen_addr,
        advertise=request.advertise_addr,
        data_path=request.data_path_addr,
    )
    founding = _founding(env, request, place)
    addresses.check_free(place.listen.host, place.listen.port)
    file = SwarmFile(
        node_id=founding.node_id,
        cluster_id=founding.cluster_id,
        raft_id=founding.member.raft_id,
        listen_addr=str(place.listen),
        advertise_addr=founding.member.address,
        runtime=runtime,
        data_path_addr=place.data_path,
        announce=request.announce,
    )
    return Plan(founding=founding, file=file)


def _founding(env: Env, request: InitRequest, place: Place) -> Founding:
    spec = accepted_swarm(request.spec)
    check_availability(request.availability or "active")
    locks = spec.encryption_config.auto_lock_managers
    pools, subnet_size = address_pools(request.default_addr_pool or (), request.subnet_size)
    node_id, cluster_id = NodeID(new_id(env.entropy)), ClusterID(new_id(env.entropy))
    member = Member(
        raft_id=RaftID(int.from_bytes(env.entropy(8), "big") & UINT63_MAX or 1),
        node_id=node_id,
        address=str(place.advertised),
    )
    return Founding(
        cluster_id=cluster_id,
        node_id=node_id,
        member=member,
        spec=spec,
        root=new_root(env.clock.wall_ms(), env.entropy),
        certificate=b"",
        availability=request.availability,
        addr_pool=pools if request.default_addr_pool else request.default_addr_pool,
        subnet_size=subnet_size,
        vxlan_port=data_path_port(request.data_path_port),
        unlock_key=new_unlock_key(env.entropy) if locks else b"",
    )


def write_identity(env: Env, files: NodeFiles, plan: Plan) -> Plan:
    """Make this node's key and certificate and store them, locked from the first byte where the
    swarm locks its managers; the plan with the certificate in it."""
    founding, key = plan.founding, new_key(env.entropy)
    certificate = issue(
        founding.root,
        public_key_of(new_csr(key)),
        Subject(founding.node_id, "manager", founding.cluster_id),
        now_ms=env.clock.wall_ms(),
        expiry_ns=founding.spec.ca_config.node_cert_expiry,
        entropy=env.entropy,
    )
    keys = new_node_keys(key, new_seal_key(env.entropy), new_seal_key(env.entropy))
    files.write(founding.root.cert_pem, certificate, keys, Kek(key=founding.unlock_key))
    return msgspec.structs.replace(
        plan, founding=msgspec.structs.replace(founding, certificate=certificate)
    )

"""Becoming the first node of a new swarm: ids, root, certificate, files, first transaction."""

import msgspec

from swarmlet.api.engine import InitRequest
from swarmlet.ca.csr import new_csr, public_key_of
from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.keys import new_key
from swarmlet.ca.node_files import NodeFiles, new_node_keys
from swarmlet.ca.root import new_root
from swarmlet.core.errors import InvalidArgumentError, UnsupportedError
from swarmlet.core.ids import ClusterID, NodeID, RaftID, new_id
from swarmlet.core.limits import LISTEN_PORT, UINT63_MAX
from swarmlet.daemon.addresses import Addresses
from swarmlet.daemon.data_dir import DataDir, SwarmFile
from swarmlet.env.base import Env
from swarmlet.env.sealed import new_seal_key
from swarmlet.manager.bootstrap import Founding
from swarmlet.manager.control import accepted_swarm
from swarmlet.model.address import Address, address_pools, data_path_port, parse_address, parse_host
from swarmlet.model.validate import check_availability
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
    if request.force_new_cluster:
        raise UnsupportedError(
            "Recovering a swarm with --force-new-cluster is not part of this release.",
            remedy="It is for swarms of several managers, which this release does not have.",
        )
    spec = accepted_swarm(request.spec)
    check_availability(request.availability or "active")
    pools, subnet_size = address_pools(request.default_addr_pool or (), request.subnet_size)
    listen = _resolved(addresses, request.listen_addr or WILDCARDS[0], "ListenAddr", LISTEN_PORT)
    addresses.check_free(listen.host, listen.port)
    advertised = _advertised(addresses, request.advertise_addr, listen)
    node_id, cluster_id = NodeID(new_id(env.entropy)), ClusterID(new_id(env.entropy))
    member = Member(
        raft_id=RaftID(int.from_bytes(env.entropy(8), "big") & UINT63_MAX or 1),
        node_id=node_id,
        address=str(advertised),
    )
    founding = Founding(
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
    )
    file = SwarmFile(
        node_id=node_id,
        cluster_id=cluster_id,
        raft_id=member.raft_id,
        listen_addr=str(listen),
        advertise_addr=member.address,
        runtime=runtime,
        data_path_addr=_data_path(addresses, request.data_path_addr),
    )
    return Plan(founding=founding, file=file)


def write_identity(env: Env, data: DataDir, plan: Plan) -> Plan:
    """Make this node's key and certificate and store them; the plan with the certificate in it."""
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
    NodeFiles(env.disk, data.certificates).write(founding.root.cert_pem, certificate, keys)
    return msgspec.structs.replace(
        plan, founding=msgspec.structs.replace(founding, certificate=certificate)
    )


def _resolved(addresses: Addresses, text: str, field: str, port: int) -> Address:
    given = parse_address(text, field, port)
    return Address(host=addresses.resolve(given.host), port=given.port)


def _data_path(addresses: Addresses, text: str) -> str:
    return addresses.resolve(parse_host(text, "DataPathAddr")) if text else ""


def _advertised(addresses: Addresses, text: str, listen: Address) -> Address:
    """What others are told: what the user said, else the listen address, else this host's own."""
    if text:
        chosen = _resolved(addresses, text, "AdvertiseAddr", listen.port)
        if chosen.host in WILDCARDS:
            raise InvalidArgumentError(
                f"the advertise address {chosen.host} is no address that others can call",
                remedy="Give one of this host's addresses; `ip addr` lists them.",
            )
        return chosen
    host = addresses.own() if listen.host in WILDCARDS else listen.host
    return Address(host=host, port=listen.port)

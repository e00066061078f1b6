"""Networks: what the user asked for, and what the allocator gave."""

import msgspec

from swarmlet.core.ids import NetworkID
from swarmlet.model.base import ApiStruct, Record, always


class IPAMPool(ApiStruct, frozen=True, kw_only=True):
    subnet: str = ""
    ip_range: str = msgspec.field(name="IPRange", default="")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = {}


class IPAM(ApiStruct, frozen=True, kw_only=True):
    driver: str = always("")
    options: dict[str, str] = {}
    config: list[IPAMPool] = []


class NetworkConfigFrom(ApiStruct, frozen=True, kw_only=True):
    network: str = always("")


class NetworkSpec(ApiStruct, frozen=True, kw_only=True):
    """The body of `POST /networks/create`."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: NetworkConfigFrom | None = None
    ipam: IPAM | None = None
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class Network(Record, frozen=True, kw_only=True):
    """`pools` and `driver_options` (VXLAN ids) are written by the allocator; `predefined` marks the
    swarm's copies of node-local networks such as `host`, which lists hide."""

    id: NetworkID
    spec: NetworkSpec
    pools: tuple[IPAMPool, ...] = ()
    driver_options: dict[str, str] = {}
    predefined: bool = False
    version: int = 0
    created_ms: int = 0
    updated_ms: int = 0

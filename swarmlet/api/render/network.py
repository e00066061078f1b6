"""Networks: as the network endpoints print them, and as a task's attachments do."""

import msgspec

from swarmlet.api.render.common import ObjectVersion, rfc3339
from swarmlet.model.base import ApiStruct, always
from swarmlet.model.network import IPAM, IPAMPool, Network, NetworkConfigFrom


class PoolsJson(ApiStruct, frozen=True, kw_only=True):
    driver: str = always("default")
    options: dict[str, str] | None = always(None)
    config: list[IPAMPool] | None = always(None)


class NetworkJson(ApiStruct, frozen=True, kw_only=True):
    name: str
    id: str = msgspec.field(name="Id")
    created: str
    scope: str = always("swarm")
    driver: str = always("overlay")
    enable_ipv4: bool = always(True)
    enable_ipv6: bool = always(False)
    ipam: PoolsJson
    internal: bool = always(False)
    attachable: bool = always(False)
    ingress: bool = always(False)
    config_from: NetworkConfigFrom = always(NetworkConfigFrom())
    config_only: bool = always(False)
    options: dict[str, str] | None = always(None)
    labels: dict[str, str] | None = always(None)
    containers: dict[str, str] | None = None


def _pools(network: Network) -> PoolsJson:
    asked = network.spec.ipam or IPAM()
    pools = list(network.pools or asked.config)
    return PoolsJson(
        driver=asked.driver or "default", options=asked.options or None, config=pools or None
    )


def render_network(network: Network, *, is_whole: bool) -> NetworkJson:
    """`is_whole` (inspect, not a listing) also names the containers: none, for tasks are none."""
    spec = network.spec
    return NetworkJson(
        name=spec.name,
        id=network.id,
        created=rfc3339(network.created_ms),
        driver=spec.driver or "overlay",
        enable_ipv4=spec.enable_ipv4 is not False,
        enable_ipv6=bool(spec.enable_ipv6),
        ipam=_pools(network),
        internal=spec.internal,
        attachable=spec.attachable,
        ingress=spec.ingress,
        config_from=spec.config_from or NetworkConfigFrom(),
        config_only=spec.config_only,
        options={**spec.options, **network.driver_options} or None,
        labels=spec.labels or None,
        containers={} if is_whole else None,
    )


class DriverJson(ApiStruct, frozen=True, kw_only=True):
    name: str = ""
    options: dict[str, str] = {}


class PoolOptionsJson(ApiStruct, frozen=True, kw_only=True):
    driver: DriverJson = always(DriverJson())
    configs: list[IPAMPool] = []


class AttachedSpecJson(ApiStruct, frozen=True, kw_only=True):
    name: str
    labels: dict[str, str] = always({})
    driver_configuration: DriverJson = always(DriverJson())
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    ipam_options: PoolOptionsJson | None = None
    scope: str = always("swarm")


class AttachedNetworkJson(ApiStruct, frozen=True, kw_only=True):
    id: str
    version: ObjectVersion
    created_at: str
    updated_at: str
    spec: AttachedSpecJson
    driver_state: DriverJson
    ipam_options: PoolOptionsJson = always(PoolOptionsJson())


def _asked_pools(ipam: IPAM | None) -> PoolOptionsJson | None:
    if ipam is None:
        return None
    return PoolOptionsJson(driver=DriverJson(name=ipam.driver), configs=ipam.config)


def render_attached_network(network: Network) -> AttachedNetworkJson:
    """The network inside a task's attachments."""
    spec = network.spec
    return AttachedNetworkJson(
        id=network.id,
        version=ObjectVersion(index=network.version),
        created_at=rfc3339(network.created_ms),
        updated_at=rfc3339(network.updated_ms),
        spec=AttachedSpecJson(
            name=spec.name,
            labels=spec.labels,
            driver_configuration=DriverJson(name=spec.driver, options=spec.options),
            internal=spec.internal,
            attachable=spec.attachable,
            ingress=spec.ingress,
            ipam_options=_asked_pools(spec.ipam),
        ),
        driver_state=DriverJson(
            name=spec.driver or "overlay", options={**spec.options, **network.driver_options}
        ),
        ipam_options=PoolOptionsJson(
            driver=DriverJson(name="default"), configs=list(network.pools)
        ),
    )

"""Networks as objects: `ingress` may be removed and made anew, `host` stays, others come later."""

from msgspec.structs import replace

from swarmlet.core.errors import ConflictError, ForbiddenError, UnsupportedError
from swarmlet.core.ids import NetworkID
from swarmlet.manager.bootstrap import INGRESS_VXLAN_ID, VXLAN_OPTION, ingress_subnet
from swarmlet.manager.control.base import ControlBase
from swarmlet.model.address import ipam_pool
from swarmlet.model.change import Create, NotInUse, Remove, Update
from swarmlet.model.cluster import Cluster
from swarmlet.model.network import IPAM, IPAMPool, Network, NetworkSpec
from swarmlet.model.validate import check_network
from swarmlet.model.view import View, cluster_of


class NetworkVerbs(ControlBase):
    """Creates and removes rows of networks."""

    async def create_network(self, spec: NetworkSpec) -> NetworkID:
        check_network(spec)
        view = await self.read()
        for taken in view.networks.scan("name", spec.name.lower()):
            raise ConflictError(
                f"network with name {taken.spec.name} already exists",
                remedy="Choose another name.",
            )
        if not spec.ingress:
            raise UnsupportedError(
                "networks other than ingress and host are not supported yet",
                remedy="Use --network host, or none: tasks then share their node's network.",
            )
        _refuse_second_ingress(view)
        cluster = cluster_of(view)
        network = _ingress(NetworkID(self._new_id()), spec, cluster)
        # The cluster's row is written along: of two ingress networks at once it lets in one.
        await self._commit(
            f"network {spec.name}",
            [Create(obj=network), Update(obj=cluster, seen=cluster.version)],
        )
        return network.id

    async def remove_network(self, ref: str) -> None:
        row = self.find_network(await self.read(), ref)
        if row.predefined:
            raise ForbiddenError(
                f"{row.spec.name} is a pre-defined network and cannot be removed",
            )
        guard = NotInUse(table=Network, id=row.id)
        await self._commit(f"network {ref}", [Remove(table=Network, id=row.id)], [guard])


def _refuse_second_ingress(view: View) -> None:
    for network in view.networks.all():
        if network.spec.ingress:
            raise ConflictError(
                f"ingress network ({network.id}) is already present",
                remedy=f"Remove it first: `swarmlet network rm {network.spec.name}`.",
            )


def _ingress(network_id: NetworkID, spec: NetworkSpec, cluster: Cluster) -> Network:
    given = spec.ipam.config if spec.ipam is not None else []
    pools: tuple[IPAMPool, ...] = tuple(ipam_pool(pool) for pool in given)
    return Network(
        id=network_id,
        spec=replace(spec, driver="overlay", ipam=spec.ipam or IPAM(driver="default")),
        pools=pools or (ingress_subnet(cluster.default_addr_pool, cluster.subnet_size),),
        driver_options={VXLAN_OPTION: str(INGRESS_VXLAN_ID)},
    )

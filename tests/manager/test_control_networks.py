"""Networks through the API's verbs: ingress and host, and refusals for the rest."""

import asyncio

import pytest

from swarmlet.core.errors import (
    ConflictError,
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    SwarmError,
    UnsupportedError,
)
from swarmlet.model.change import Create
from swarmlet.model.network import IPAM, IPAMPool, NetworkSpec
from swarmlet.model.service import NetworkAttachmentConfig, TaskSpec
from swarmlet.model.view import spec_of
from tests.manager.control_world import new_swarm, web
from tests.store.worlds import network

INGRESS = NetworkSpec(name="ingress2", ingress=True)


def on_host(name: str = "web"):
    spec = web(name)
    task = TaskSpec(
        container_spec=spec.task_template.container_spec,
        networks=[NetworkAttachmentConfig(target="host")],
    )
    return type(spec)(name=name, task_template=task)


async def test_overlay_network_is_refused_until_it_can_be_made():
    swarm = await new_swarm()
    with pytest.raises(UnsupportedError, match="networks other than ingress and host"):
        await swarm.control.create_network(NetworkSpec(name="o", driver="overlay"))
    with pytest.raises(InvalidArgumentError, match="name must be provided"):
        await swarm.control.create_network(NetworkSpec())
    assert len(swarm.view.networks) == 2


@pytest.mark.parametrize("name", ["host", "ingress"])
async def test_taken_name_of_a_network_is_refused(name):
    swarm = await new_swarm()
    with pytest.raises(ConflictError) as refused:
        await swarm.control.create_network(NetworkSpec(name=name))
    assert refused.value.message == f"network with name {name} already exists"


async def test_second_ingress_network_is_refused():
    swarm = await new_swarm()
    ingress = swarm.control.find_network(swarm.view, "ingress")
    with pytest.raises(ConflictError) as refused:
        await swarm.control.create_network(INGRESS)
    assert refused.value.message == f"ingress network ({ingress.id}) is already present"


async def test_ingress_network_may_be_made_anew():
    swarm = await new_swarm()
    old = swarm.control.find_network(swarm.view, "ingress")
    await swarm.control.remove_network("ingress")
    new = swarm.view.networks.get(await swarm.control.create_network(INGRESS))
    assert new.pools == old.pools == (IPAMPool(subnet="10.0.0.0/24", gateway="10.0.0.1"),)
    assert new.spec.driver == "overlay"
    assert new.driver_options == old.driver_options


async def test_ingress_network_takes_the_subnet_it_is_given():
    swarm = await new_swarm()
    await swarm.control.remove_network("ingress")
    ipam = IPAM(driver="default", config=[IPAMPool(subnet="10.9.0.0/16")])
    row_id = await swarm.control.create_network(
        NetworkSpec(name="i", ingress=True, driver="overlay", ipam=ipam)
    )
    pools = swarm.view.networks.get(row_id).pools
    assert pools == (IPAMPool(subnet="10.9.0.0/16", gateway="10.9.0.1"),)


async def test_of_two_ingress_networks_made_at_once_one_is_refused():
    swarm = await new_swarm()
    await swarm.control.remove_network("ingress")

    async def outcome(name: str) -> str:
        try:
            return await swarm.control.create_network(NetworkSpec(name=name, ingress=True))
        except SwarmError as refused:
            return refused.code

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(name)) for name in ("a", "b")]
    assert sorted(task.result() in {"conflict", "out-of-sequence"} for task in tasks) == [
        False,
        True,
    ]
    assert sum(network.spec.ingress for network in swarm.view.networks.all()) == 1


async def test_predefined_network_stays():
    swarm = await new_swarm()
    with pytest.raises(ForbiddenError, match="pre-defined network"):
        await swarm.control.remove_network("host")
    with pytest.raises(NotFoundError, match="network nope not found"):
        await swarm.control.remove_network("nope")


async def test_network_of_a_service_is_kept_by_its_id():
    swarm = await new_swarm()
    created = await swarm.control.create_service(on_host())
    host = swarm.control.find_network(swarm.view, "host")
    spec = spec_of(swarm.view, swarm.view.services.get(created.id))
    assert [network.target for network in spec.task_template.networks] == [host.id]


@pytest.mark.parametrize(
    ("target", "status", "sentence"),
    [
        ("o", 501, "networks other than host are not supported in services yet"),
        ("nope", 500, "network nope not found"),
        (
            "ingress",
            400,
            "service cannot be explicitly attached to the ingress network ingress",
        ),
    ],
)
async def test_network_that_a_service_cannot_use_is_refused(target, status, sentence):
    swarm = await new_swarm()
    await swarm.put(Create(obj=network("o1", "o")))
    task = TaskSpec(
        container_spec=web().task_template.container_spec,
        networks=[NetworkAttachmentConfig(target=target)],
    )
    with pytest.raises(SwarmError) as refused:
        await swarm.control.create_service(type(web())(name="web", task_template=task))
    assert (refused.value.http_status, refused.value.message) == (status, sentence)

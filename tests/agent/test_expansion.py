"""What a runtime gets has no templates: they are expanded with what the agent knows of its node."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from swarmlet.agent.expansion import context_of, expanded
from swarmlet.core.ids import NodeID
from swarmlet.env.real import RealDisk
from swarmlet.model.container import ContainerSpec, Mount
from swarmlet.model.node import NodeDescription
from swarmlet.model.service import GenericResource, NamedGenericResource, Platform
from swarmlet.model.task import TaskState as S
from swarmlet.wire.messages import AssignedTask
from tests.agent.fake_runtime import FakeRuntime
from tests.agent.fakes import FakeManager, assigned, new_agent
from tests.agent.virtual_time import VirtualClock, run_virtual, until, virtual_env

NODE = NodeDescription(hostname="host7", platform=Platform(architecture="arm64", os="linux"))


class SeeingRuntime(FakeRuntime):
    """Remembers every task it is given, by verb."""

    def __init__(self) -> None:
        super().__init__(VirtualClock())
        self.seen: dict[str, AssignedTask] = {}

    def check(self, task):
        self.seen["check"] = task
        super().check(task)

    async def prepare(self, task):
        self.seen["prepare"] = task
        await super().prepare(task)

    async def start(self, task, files=()):
        self.seen["start"] = task
        return await super().start(task, files)

    async def healthy(self, task):
        self.seen["healthy"] = task
        return await super().healthy(task)


def run_task(tmp_path: Path, container: ContainerSpec, state: int):
    """The runtime and the manager once the task has come to `state`."""
    runtime, manager = SeeingRuntime(), FakeManager()

    async def story():
        agent = new_agent(
            virtual_env(RealDisk()), runtime, manager, str(tmp_path / "agent"), lambda: NODE
        )
        async with asyncio.TaskGroup() as group:
            jobs = [group.create_task(manager.run()), group.create_task(agent.run())]
            await until(lambda: manager.channel is not None, 60)
            await manager.assign(assigned("t1", container=container))
            await until(lambda: manager.state("t1") == state, 60)
            for job in jobs:
                job.cancel()

    run_virtual(story())
    return runtime, manager


def test_every_verb_of_the_runtime_gets_the_expanded_task(tmp_path):
    container = ContainerSpec(
        image="host",
        hostname="{{.Node.Hostname}}-{{.Task.Slot}}",
        env=["ARCH={{.Node.Platform.Architecture}}", "S={{.Service.Name}}"],
    )
    runtime, _ = run_task(tmp_path, container, S.RUNNING)
    assert list(runtime.seen) == ["check", "prepare", "start", "healthy"]
    for task in runtime.seen.values():
        assert task.spec.container_spec.hostname == "host7-1"
        assert task.spec.container_spec.env == ["ARCH=arm64", "S=web"]


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (ContainerSpec(image="host", env=["A={{.Service.Labels.nope}}"]), "expanding env A failed"),
        (
            ContainerSpec(
                image="host", mounts=[Mount(type="bind", source="/", target="{{.Task.Slot}}")]
            ),
            "mount path must be absolute",
        ),
    ],
    ids=["template", "mount"],
)
def test_task_whose_templates_do_not_fit_is_rejected_with_the_reason(tmp_path, container, words):
    runtime, manager = run_task(tmp_path, container, S.REJECTED)
    assert words in manager.statuses["t1"].err
    assert not runtime.seen


@pytest.mark.parametrize(
    ("slot", "is_numbered", "shown"),
    [(3, False, "3"), (0, False, "node-1"), (0, True, "0"), (2, True, "2")],
)
def test_templates_name_the_first_slot_of_a_job_and_the_node_of_a_task_without_one(
    slot, is_numbered, shown
):
    """SwarmKit shows the node's id for both, so that the first task of a job knows no number."""
    task = msgspec.structs.replace(
        assigned("t1"), slot=slot, node_id=NodeID("node-1"), is_numbered=is_numbered
    )
    assert context_of(task, NODE).slot == shown


@pytest.mark.parametrize("env", [[], ["ARCH={{.Node.Platform.Architecture}}"]])
def test_task_is_told_of_its_generic_resources(env):
    gpu = GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value="GPU-1"))
    container = ContainerSpec(image="host", env=env)
    task = msgspec.structs.replace(assigned("t1", container=container), generic_resources=(gpu,))
    told = expanded(task, lambda: NODE).spec.container_spec.env
    assert told[-1] == "DOCKER_RESOURCE_GPU=GPU-1"
    assert len(told) == len(env) + 1

"""What a runtime gets has no templates: they are expanded with what the agent knows of its node."""

import asyncio
from pathlib import Path

import pytest

from swarmlet.env.real import RealDisk
from swarmlet.model.container import ContainerSpec, Mount
from swarmlet.model.node import NodeDescription
from swarmlet.model.service import Platform
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

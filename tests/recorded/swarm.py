"""A whole daemon in this process, with a runtime whose containers are made of nothing."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator

import msgspec
from aiohttp.test_utils import TestClient, TestServer

from swarmlet.api.app import build_app
from swarmlet.daemon.data_dir import DataDir
from swarmlet.daemon.engine import DaemonEngine
from swarmlet.daemon.facts import gather_facts
from swarmlet.daemon.host import Host
from swarmlet.env.real import real_env
from swarmlet.runtime.base import RuntimeDescription
from swarmlet.wire.messages import AssignedTask
from tests.agent.fake_runtime import FakeRuntime, Script
from tests.daemon.no_network import NoNetwork


class FakeEngine(FakeRuntime):
    """Takes every image."""

    @property
    def name(self) -> str:
        return "docker"

    def describe(self) -> RuntimeDescription:
        plugins = (("Log", "json-file"), ("Network", "bridge"), ("Volume", "local"))
        return msgspec.structs.replace(super().describe(), name="docker", plugins=plugins)


def script_of(task: AssignedTask) -> Script:
    """What says something says it; the rest is silent."""
    container = task.spec.container_spec
    says = container is not None and any("echo" in word for word in container.args)
    return Script(lines=(b"hello\n",) if says else ())


class LoopbackAddresses:
    def own(self, towards=()) -> str:
        return "127.0.0.1"

    def resolve(self, host: str) -> str:
        return host

    def check_free(self, host: str, port: int) -> None:
        """Always free."""


@contextlib.asynccontextmanager
async def whole_daemon() -> AsyncIterator[tuple[DaemonEngine, TestClient]]:
    """Its engine and a client of its API; not in a swarm yet."""
    with tempfile.TemporaryDirectory(prefix="swarmlet-recorded-") as folder:
        env = real_env()
        data = DataDir(env.disk, f"{folder}/data")
        data.open()
        runtime = FakeEngine(env.clock, script_of)
        host = Host(
            env=env,
            data=data,
            runtime=runtime,
            facts=gather_facts(env, data, runtime),
            addresses=LoopbackAddresses(),
            network=NoNetwork(),
            settle=lambda: None,
        )
        async with asyncio.TaskGroup() as group:
            engine = DaemonEngine(host, group)
            await engine.open()
            async with TestClient(TestServer(build_app(engine))) as client:
                yield engine, client
            await engine.close()

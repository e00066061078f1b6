"""Wire the rooms together and serve the API until told to stop."""

import asyncio
import gc
import logging
from collections.abc import Callable

from swarmlet.api.app import build_app
from swarmlet.api.listener import serve_unix
from swarmlet.daemon.addresses import HostAddresses
from swarmlet.daemon.data_dir import DataDir
from swarmlet.daemon.engine import DaemonEngine
from swarmlet.daemon.facts import gather_facts
from swarmlet.daemon.host import Host
from swarmlet.daemon.late_parts import LateParts
from swarmlet.daemon.network import HostNetwork
from swarmlet.daemon.notify import Tell
from swarmlet.daemon.runtimes import Runtimes
from swarmlet.daemon.settings import Settings
from swarmlet.env.real import real_env

log = logging.getLogger("swarmlet.daemon")


async def serve(
    settings: Settings, stop_on: Callable[[asyncio.Event], None], tell: Tell | None = None
) -> None:
    """Run one daemon; `tell` hears when the API listens and when the end begins.

    Raises DamagedError, ListenError, what `Runtimes` raises, and whatever else forbids to start.
    """
    parts, env = LateParts(), real_env()
    data = DataDir(env.disk, settings.data_dir)
    data.open()
    # A thread of its own: what the runtime waits for must not hold up the log.
    runtimes = Runtimes(real_env("runtime"), data, settings)
    runtime = await runtimes.at_start()
    async with asyncio.TaskGroup() as group:
        addresses = HostAddresses()
        host = Host(
            env=env,
            data=data,
            runtime=runtime,
            facts=gather_facts(env, data, runtime, runtimes.docker_host),
            addresses=addresses,
            network=HostNetwork(env, addresses),
            settle=settle_memory,
            choose=runtimes.at_init,
            load_parts=parts.load,
            listen_addr=settings.listen_addr,
            advertise_addr=settings.advertise_addr,
            generic_resources=settings.generic_resources,
        )
        engine = DaemonEngine(host, group)
        watch = group.create_task(engine.process.watch_loop(), name="loop-lag")
        stop_on(engine.stopped)
        await engine.open()
        async with serve_unix(build_app(engine, engine.door), settings.socket_path):
            log.info("daemon.ready", extra={"socket": settings.socket_path, "data": data.path})
            if tell is not None:
                tell(f"READY=1\nSTATUS=Listening at {settings.socket_path}")
            await engine.stopped.wait()
            log.info("daemon.stopping")
            if tell is not None:
                tell("STOPPING=1\nSTATUS=Stopping; tasks run on")
            await engine.close()
        watch.cancel()


def settle_memory() -> None:
    """Take what is loaded out of the collector's sight: a full collection of a big store would
    cost most of an election timeout (measured: 0.2 s for 300,000 objects, nothing when frozen)."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()

"""What every node of a swarm has, worker or manager: an agent that runs its tasks, and a
certificate that is renewed in time."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from swarmlet.agent.agent import Agent
from swarmlet.api.engine import OwnCertificate
from swarmlet.api.render.certificate import read_certificate
from swarmlet.ca.key_file import NodeKeys
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.ca.renewer import Renewer
from swarmlet.ca.source import CertificateSource
from swarmlet.core.ids import NodeID
from swarmlet.daemon.host import Host
from swarmlet.env.sealed import seal_key
from swarmlet.model.node import (
    LIMITS_LABEL_PREFIX,
    RUNTIME_LABEL,
    EngineDescription,
    NodeDescription,
    Plugin,
)
from swarmlet.model.service import Platform
from swarmlet.runtime.base import Runtime
from swarmlet.wire.channel import AgentConnector
from swarmlet.wire.messages import SwarmInfo

log = logging.getLogger("swarmlet.daemon")

REGISTER_WAIT_S: Final = 5.0  # for a new swarm's only node, before `init` answers
LEAVE_WAIT_S: Final = 60.0  # for tasks to stop before their state is wiped
LEAVE_TROUBLED_WAIT_S: Final = 5.0  # the same where the runtime is away, and may come back


class Papers:
    """The node's certificate files as they were read at the start, and what they become."""

    def __init__(self, host: Host) -> None:
        """Raises DamagedError, LockedError."""
        self.files = host.node_files()
        _, _, self.keys = self.files.read()
        self.own = self.files.own_identity()


class NodeLife:
    """`on_info` hears what managers say of the swarm, after the renewer has."""

    def __init__(
        self,
        host: Host,
        runtime: Runtime,
        papers: Papers,
        *,
        connector: AgentConnector,
        source: CertificateSource,
        on_info: Callable[[SwarmInfo], None],
    ) -> None:
        self._env, self._runtime, self._hostname = host.env, runtime, host.facts.hostname
        self._generic = list(host.generic_resources)
        self._on_info = on_info
        self.own: OwnIdentity = papers.own
        keys: NodeKeys = papers.keys
        self.renewer = Renewer(host.env, papers.files, self.own, source)
        self.agent = Agent(
            host.env,
            NodeID(self.own.identity.node_id),
            runtime,
            connector,
            state_dir=host.data.agent,
            seal_key=seal_key(keys.node_dek),
            describe=self._describe,
            own=self.own,
            on_info=self._heed,
        )

    def is_expired(self) -> bool:
        """Whether the certificate's time is over."""
        return self._env.clock.wall_ms() > self.own.identity.ends_ms

    def certificate(self) -> OwnCertificate:
        return read_certificate(self.own.credentials.chain_pem, self.own.identity.role)

    async def registered(self) -> None:
        """Wait for this node to be one that can take tasks: who asks next sees it ready. A slow one
        comes later."""
        try:
            await self.agent.registered(REGISTER_WAIT_S)
        except TimeoutError:
            log.warning("swarm.register_slow", extra={"waited_s": REGISTER_WAIT_S})

    async def leave(self) -> None:
        """Stop and remove this node's tasks, as far as the runtime lets us."""
        began_s = self._env.clock.mono_s()
        try:
            async with asyncio.timeout(LEAVE_WAIT_S) as limit, asyncio.TaskGroup() as group:
                watching = group.create_task(self._hurry(limit), name="leave")
                await self.agent.leave()
                watching.cancel()
        except* TimeoutError:
            waited_s = round(self._env.clock.mono_s() - began_s)
            log.warning("swarm.leave_slow", extra={"waited_s": waited_s})

    async def _hurry(self, limit: asyncio.Timeout) -> None:
        """Wait no longer than it helps for a runtime that is away, or goes away meanwhile."""
        problem = self._runtime.condition.problem
        while not problem:
            problem = await self._runtime.condition.changed(problem)
        soon_s = asyncio.get_running_loop().time() + LEAVE_TROUBLED_WAIT_S
        if not limit.expired():
            limit.reschedule(min(limit.when() or soon_s, soon_s))

    def _heed(self, info: SwarmInfo) -> None:
        self.renewer.heed(info)
        self._on_info(info)

    def _describe(self) -> NodeDescription:
        """The agent adds what the certificate says."""
        facts = self._runtime.describe()
        labels = {RUNTIME_LABEL: facts.name}
        if facts.limits is not None:
            labels[LIMITS_LABEL_PREFIX + facts.name] = ",".join(facts.limits)
        return NodeDescription(
            hostname=self._hostname,
            platform=Platform(architecture=facts.architecture, os=facts.os),
            resources=replace(facts.resources, generic_resources=self._generic),
            engine=EngineDescription(
                engine_version=facts.engine_version,
                labels=labels,
                plugins=[Plugin(type=kind, name=name) for kind, name in facts.plugins],
            ),
        )

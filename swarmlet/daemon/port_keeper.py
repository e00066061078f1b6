"""A manager's node port is kept open while the node is a manager, and announced where asked for."""

import asyncio
import logging
from typing import Final

from swarmlet.core.errors import SwarmError, UnavailableError, first_of
from swarmlet.core.ids import NodeID
from swarmlet.daemon.host import NodeNetwork, Port, PortPlan
from swarmlet.model.address import Address

log = logging.getLogger("swarmlet.daemon")

RETRY_S: Final = 5.0  # after a port that could not be opened, or an announcement not made


class PortKeeper:
    """Component `run`. `problem` says why the port is not open, "" while it is."""

    def __init__(
        self, network: NodeNetwork, plan: PortPlan, advertised: Address, *, announces: bool
    ) -> None:
        self._network, self._plan, self._announces = network, plan, announces
        self._advertised = advertised
        self._port: Port | None = None
        self.problem = ""

    async def run(self, on_open: asyncio.Event, *, must_open: bool) -> None:
        """Until cancelled. `on_open` is set once the port was opened, or could not be opened and is
        tried again later; with `must_open` that raises FailedPreconditionError instead."""
        while True:
            port = self._network.plan_port(self._plan)
            try:
                await self._serve(port, on_open)
            except* SwarmError as group:
                problem = first_of(group)
                if must_open and not on_open.is_set():
                    raise problem from group
                self._note(problem)
            on_open.set()
            await asyncio.sleep(RETRY_S)

    def listen_addr(self) -> str:
        """Where the port is open; "" where it is not."""
        is_open = self._port is not None and self._port.opened.is_set()
        return str(self._plan.listen) if is_open else ""

    def close_node(self, node_id: NodeID) -> None:
        if self._port is not None:
            self._port.close_node(node_id)

    def gauges(self) -> dict[str, float]:
        return {} if self._port is None else self._port.gauges()

    async def _serve(self, port: Port, on_open: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(port.run(), name="node-port")
            await port.opened.wait()
            self._port, self.problem = port, ""
            log.info("port.opened", extra={"listen": str(self._plan.listen)})
            on_open.set()
            if self._announces:
                group.create_task(self._announce(), name="announce")

    async def _announce(self) -> None:
        """A network without multicast is no reason to be no manager."""
        identity = self._plan.own.identity
        while True:
            try:
                async with self._network.announce(
                    self._advertised, identity.cluster_id, identity.node_id
                ):
                    log.info("port.announced", extra={"addr": str(self._advertised)})
                    await asyncio.Event().wait()
            except UnavailableError as problem:
                log.warning("port.not_announced", extra={"cause": problem.message})
                await asyncio.sleep(RETRY_S)

    def _note(self, problem: SwarmError) -> None:
        self._port = None
        if problem.message != self.problem:
            fields = {"listen": str(self._plan.listen), "cause": problem.message}
            log.warning("port.not_open", extra=fields)
        self.problem = problem.message

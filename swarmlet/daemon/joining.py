"""On the way into another node's swarm: an attempt that goes on across restarts."""

import asyncio
import logging
from typing import Final

from swarmlet.api.engine import JoinRequest
from swarmlet.ca.enrolment import Enrolled, Enrolment, is_final
from swarmlet.ca.join_record import JoinRecord, JoinRecordFile
from swarmlet.core.errors import SwarmError
from swarmlet.core.ids import NodeID
from swarmlet.daemon.addresses import Addresses, choose_place
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.daemon.host import Host
from swarmlet.env.base import Env
from swarmlet.model.address import parse_address
from swarmlet.model.validate import check_availability
from swarmlet.wire.messages import ManagerAddr

log = logging.getLogger("swarmlet.daemon")

JOIN_WAIT_S: Final = 20.0  # for a client that waits; moby daemon/cluster
RETRY_MIN_S: Final = 5.0  # between rounds when nobody waits any more, doubling
RETRY_MAX_S: Final = 60.0


async def plan_join(
    env: Env, addresses: Addresses, request: JoinRequest, runtime: str
) -> tuple[JoinRecord, SwarmFile]:
    """What to write down of a join: its record, and the swarm's file as far as it is known.

    Raises InvalidArgumentError.
    """
    check_availability(request.availability or "active")
    place = await choose_place(
        env,
        addresses,
        listen=request.listen_addr,
        advertise=request.advertise_addr,
        data_path=request.data_path_addr,
        towards=[parse_address(addr, "remoteAddr").host for addr in request.remote_addrs],
    )
    joining = JoinRecord(
        token=request.token,
        remote_addrs=request.remote_addrs,
        listen_addr=str(place.listen),
        advertise_addr=str(place.advertised),
        data_path_addr=place.data_path,
        availability=request.availability,
        announce=request.announce,
        runtime=runtime,
    )
    return joining, _file(joining, "", "")


def _file(joining: JoinRecord, node_id: str, cluster_id: str) -> SwarmFile:
    return SwarmFile(
        node_id=node_id,
        cluster_id=cluster_id,
        raft_id=0,
        listen_addr=joining.listen_addr,
        advertise_addr=joining.advertise_addr,
        runtime=joining.runtime,
        data_path_addr=joining.data_path_addr,
        announce=joining.announce,
    )


class Attempt:
    """One join, from its record on the disk to a swarm's file that only has to be put in force.
    `is_awaited` while a client waits for it: then a failure is its answer, not a reason to wait."""

    def __init__(self, host: Host) -> None:
        self._host, self._data = host, host.data
        self._joining: JoinRecord | None = None
        files = host.node_files()
        record = JoinRecordFile(host.env.disk, host.data.joining, files, host.env.entropy)
        link, find = host.network.link, host.network.find
        self._enrolment = Enrolment(host.env, link, files, record, find)
        self._problem = ""
        self.is_awaited = False

    @property
    def problem(self) -> str:
        """Why it takes so long, for people."""
        return self._problem or self._enrolment.problem

    async def begin(self, joining: JoinRecord, file: SwarmFile) -> None:
        """Write it down. Raises InvalidArgumentError where the token is none."""
        await self._host.env.blocking(lambda: self._data.prepare_swarm(file))
        await self._enrolment.begin(joining)
        self._joining = joining

    async def resume(self) -> None:
        """Go on with what is written down. Raises DamagedError, LockedError."""
        self._joining = await self._enrolment.resume()
        self.is_awaited = False

    async def run(self) -> SwarmFile:
        """Until the certificate is there. Raises SwarmError where there will be none: nothing that
        was written then is of any use."""
        assert self._joining is not None, "begun or resumed"
        pause_s = RETRY_MIN_S
        while True:
            try:
                enrolled = await self._enrolment.run()
            except SwarmError as problem:
                if self.is_awaited or is_final(problem):
                    raise
                self._problem = problem.message
                log.warning("join.interrupted", extra={"cause": problem.message})
            else:
                return await self._written(self._joining, enrolled)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def settle(self) -> None:
        """From now on this node is in the swarm, whatever happens to the process."""

        def enter() -> None:
            self._data.enter_swarm()

        await self._host.env.blocking(enter)
        await self._enrolment.forget()

    async def _written(self, joining: JoinRecord, enrolled: Enrolled) -> SwarmFile:
        identity = enrolled.own.identity
        file = _file(joining, identity.node_id, identity.cluster_id)
        addrs = dict.fromkeys((enrolled.manager_addr, *joining.remote_addrs))
        managers = tuple(ManagerAddr(node_id=NodeID(""), addr=addr) for addr in addrs)

        def write() -> None:
            self._data.prepare_swarm(file)
            self._data.known_managers.write(managers)

        await self._host.env.blocking(write)
        return file

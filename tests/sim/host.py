"""One host of a simulated swarm: how its daemons end and begin again, and what is on its disk."""

from random import Random

from swarmlet.ca.key_file import PENDING_FILE
from swarmlet.ca.node_files import NodeFiles
from swarmlet.wire.credentials import Credentials
from tests.daemon.sim_nodes import SimNode
from tests.sim.disk import SimCrash
from tests.sim.loop import HostClock
from tests.sim.world import DATA
from tests.wire.memory_link import MemoryNet

CERTIFICATES = f"{DATA}/certificates"


class Host(SimNode):
    """A host of a swarm. `standing`: "out" of any swarm, "in" it, or "removed" from it."""

    def __init__(self, net: MemoryNet, name: str, clock: HostClock) -> None:
        super().__init__(net, name, clock)
        self.standing, self.node_id = "out", ""
        self.is_on = self.is_cut = False
        self.there_since_s = 0.0  # on and connected

    @property
    def is_there(self) -> bool:
        return self.is_on and not self.is_cut

    async def switch_on(self) -> None:
        await self.start()
        self.is_on, self.there_since_s = True, self.clock.mono_s()

    async def switch_off(self, how: str, rng: Random) -> None:
        """By a clean stop of the daemon, "kill" (tasks run on), or "power" (nothing does)."""
        self.is_on = False
        if how == "stop" and not await self._stops():
            how = "power"
        if how != "stop":
            await self.kill()
        self.net.end_process(self.host)
        if how == "power":
            self.runtime.reboot()
            self.disk.crash(rng)
        else:
            self.disk.reopen()

    async def _stops(self) -> bool:
        """Whether the daemon came to a good end, before the power went."""
        try:
            await self.stop()
        except (SimCrash, BaseExceptionGroup):
            if not self.disk.is_dead:
                raise
        return not self.disk.is_dead

    def has_died(self) -> bool:
        """Whether the disk's power cut has come. Raises what ended the daemon otherwise."""
        if not self.is_on or not (self.disk.is_dead or self._task.done()):
            return False
        if not self.disk.is_dead:
            self._task.result()
            raise AssertionError(f"{self.host}'s daemon ended by itself")
        return True

    def credentials(self) -> Credentials:
        """As they are on the disk."""
        root_pem, chain_pem, keys = NodeFiles(self.disk, CERTIFICATES).read()
        return Credentials(root_pem=root_pem, chain_pem=chain_pem, key_pem=keys.tls_key_pem)

    def file(self, name: str) -> bytes:
        return self.disk.read(f"{CERTIFICATES}/{name}")

    def has_pending_key(self) -> bool:
        """Of a request whose answer the power kept from it: it asks for that first."""
        return self.disk.exists(f"{CERTIFICATES}/{PENDING_FILE}")

    def is_trying(self) -> bool:
        """Whether its last renewal failed."""
        return bool(self.engine._stay.life.renewer.problem)

    def is_expired(self) -> bool:
        return self.state.certificate.ends_ms <= self.clock.wall_ms()

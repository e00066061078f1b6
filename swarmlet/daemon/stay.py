"""One stay in a swarm, of whatever kind: what the daemon's engine needs of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from swarmlet.api.engine import Forwarder, SwarmState
from swarmlet.core.errors import SwarmError
from swarmlet.daemon.data_dir import SwarmFile

if TYPE_CHECKING:
    from swarmlet.manager.control import Control


class Stay(Protocol):
    """From entering a swarm, or a start in one, to leaving it, or the daemon's end."""

    @property
    def file(self) -> SwarmFile: ...

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve; returns only by an error or cancellation. Cancelled, the tasks run on."""
        ...

    async def registered(self) -> None:
        """Wait a moment for this node to be one that can take tasks."""
        ...

    def state(self) -> SwarmState: ...

    def control(self) -> "Control":
        """Raises NotManagerError with Docker's text for the present state."""
        ...

    def forwarder(self) -> Forwarder | None:
        """Where the swarm's calls go instead of `control`, or None."""
        ...

    def leave_refusal(self) -> SwarmError | None:
        """Why leaving needs to be forced; None where it does not."""
        ...

    async def leave(self) -> None:
        """Stop and remove this node's tasks, as far as the runtime lets us."""
        ...

    async def stop(self, *, is_host_stopping: bool = False) -> None:
        """Say goodbye; tasks run on, unless the host stops."""
        ...

    def gauges(self) -> dict[str, float]: ...

    def is_at_rest(self) -> bool:
        """Whether nothing happens here until somebody asks or a task ends."""
        ...

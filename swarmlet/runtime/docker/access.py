"""What is done in a container from outside: programs beside its task, connections to its ports."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from swarmlet.core.ids import TaskID
from swarmlet.env.base import Env
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.docker.client import EngineClient
from swarmlet.runtime.docker.exec_process import ContainerExec
from swarmlet.runtime.docker.sight import Sight
from swarmlet.runtime.tcp import TcpConnection, connect, find_listeners, is_ours
from swarmlet.wire.messages import ExecRequest

_HERE: Final = ("unix://", "tcp://127.", "tcp://localhost:", "tcp://[::1]:")


class ContainerAccess:
    """Of all tasks of one runtime. `look` gives what the engine says of a task's container now, or
    raises RuntimeProblemError."""

    def __init__(
        self, env: Env, client: EngineClient, look: Callable[[TaskID], Awaitable[Sight]]
    ) -> None:
        self._env, self._client, self._look = env, client, look

    async def exec(self, task_id: TaskID, request: ExecRequest) -> ContainerExec:
        """What a program leaves behind when it ends lives on in the container, as the engine has
        it."""
        if not request.argv or not request.argv[0]:
            raise RuntimeProblemError("No program is named.", remedy="Name one to run in the task.")
        sight = await self._running(task_id)
        program = ContainerExec(self._client, self._env.blocking, task_id, sight.id)
        await program.begin(request)
        return program

    async def dial(self, task_id: TaskID, port: int) -> TcpConnection:
        """By the container's address, which the engine's own host reaches."""
        sight = await self._running(task_id)
        if not self._client.host.startswith(_HERE):
            raise RuntimeProblemError(
                f"The Docker Engine at {self._client.host} is on another host: the addresses of "
                "its containers cannot be reached from here.",
                remedy="Publish the port, or run the daemon beside its engine.",
            )
        return await connect(task_id, await self._addresses(task_id, sight, port), port)

    async def _running(self, task_id: TaskID) -> Sight:
        sight = await self._look(task_id)
        if not sight.runs:
            raise RuntimeProblemError(f"Task {task_id} does not run any more.")
        return sight

    async def _addresses(self, task_id: TaskID, sight: Sight, port: int) -> Sequence[str]:
        if not sight.is_on_host_network:
            if not sight.addresses:
                raise RuntimeProblemError(
                    f"Task {task_id} has no address of its own: nothing of it can be reached.",
                    remedy="It is on no network (`--network none`), or shares another's.",
                )
            return sight.addresses
        listeners = await self._env.blocking(lambda: find_listeners(port))
        found = [one.address for one in listeners if not is_ours(one)]
        if not found:
            raise RuntimeProblemError(f"Nothing listens on port {port} of task {task_id}.")
        return found

"""What happens beside a task while it runs: programs that see the world as it does, and connections
to its ports."""

from collections.abc import Awaitable, Callable

from swarmlet.core.ids import TaskID
from swarmlet.env.base import Env
from swarmlet.runtime.base import NotExecutedError, RuntimeProblemError
from swarmlet.runtime.process.accounts import AccountRules
from swarmlet.runtime.process.dialing import find_task_listener, port_given
from swarmlet.runtime.process.exec_plan import check_request, exec_config, exec_problem, find_user
from swarmlet.runtime.process.exec_process import Execution, Executions
from swarmlet.runtime.process.failures import StartFailedError
from swarmlet.runtime.process.host import Host
from swarmlet.runtime.process.processes import ProcessIdentity
from swarmlet.runtime.process.sandbox import Config
from swarmlet.runtime.process.spawn import encode_config
from swarmlet.runtime.process.supervised import Supervised, read_kept, way_into
from swarmlet.runtime.tcp import TcpConnection, connect
from swarmlet.wire.messages import ExecRequest


class Beside:
    """Of all tasks of one runtime. `running` gives a task that runs, or raises
    RuntimeProblemError."""

    def __init__(
        self,
        env: Env,
        host: Host,
        rules: AccountRules,
        running: Callable[[TaskID], Awaitable[Supervised]],
    ) -> None:
        self._env, self._host, self._rules = env, host, rules
        self._running, self._execs = running, Executions()

    async def exec(self, task_id: TaskID, request: ExecRequest) -> Execution:
        """What the program leaves behind is killed when it ends, and it when the task ends."""
        check_request(request)
        known = await self._running(task_id)
        try:
            return await self._begin(known, request)
        except OSError as error:
            raise NotExecutedError(
                f"No process could be started beside task {task_id}: {error.strerror}.",
                remedy="The node is short of processes, memory or open files: try again.",
            ) from error

    async def _begin(self, known: Supervised, request: ExecRequest) -> Execution:
        task, kept = _world(known)
        account = find_user(request.user, kept, self._rules)
        pairs = exec_config(kept, request, account, f"{task.pid} {task.start}")
        try:
            return await self._execs.begin(encode_config(pairs) + way_into(known), request)
        except StartFailedError as failure:
            uid = account.uid if account else kept.number(b"uid") or self._host.uid
            raise exec_problem(failure, request, uid) from failure

    async def dial(self, task_id: TaskID, port: int) -> TcpConnection:
        """To the port the task was given for this target, and only if the task listens there."""
        known = await self._running(task_id)
        task, kept = _world(known)
        number = port_given(known.ports, port)
        uids = {kept.number(b"uid") or self._host.uid, task.uid()}
        address = await self._env.blocking(lambda: find_task_listener(task_id, number, uids))
        return await connect(task_id, [address], number)

    async def close(self) -> None:
        """End all programs."""
        await self._execs.close()


def _world(known: Supervised) -> tuple[ProcessIdentity, Config]:
    """A task's main process, and what was kept of its world."""
    task, kept = known.bundle.identity("task.pid"), read_kept(known)
    if task is None or not kept:
        raise RuntimeProblemError(f"Task {known.bundle.task_id} does not run any more.")
    return task, Config(kept)

"""Where a task's port is: on this host, whose network the task shares, at the number it was
given."""

from collections.abc import Iterable, Sequence

from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.process.ports import Port
from swarmlet.runtime.tcp import Listener, find_listeners, is_ours


def port_given(ports: Sequence[Port], target: int) -> int:
    """The host's number of a target port; itself where the task was given no other."""
    given = [port.published for port in ports if (port.protocol, port.target) == ("tcp", target)]
    return given[0] if given else target


def find_task_listener(task_id: TaskID, port: int, uids: Iterable[int]) -> str:
    """The address at which the task listens. Blocks. Raises RuntimeProblemError where nobody of its
    accounts does: a connection goes to the task, never to who else has the port."""
    listeners, allowed = find_listeners(port), set(uids)
    if not listeners:
        raise RuntimeProblemError(
            f"Nothing listens on port {port} of task {task_id}.",
            remedy="A task has to open the port that it finds in PORT and PORT_<target>.",
        )
    for listener in listeners:
        if _is_tasks(listener, allowed):
            return listener.address
    raise RuntimeProblemError(
        f"Port {port} of this node belongs to another process than task {task_id}.",
        remedy="A task has to open the port that it finds in PORT and PORT_<target>.",
    )


def _is_tasks(listener: Listener, uids: set[int]) -> bool:
    return listener.uid in uids and not is_ours(listener)

"""Which task `exec` and `port-forward` mean: of a service, of one slot or node of it, or by id."""

from typing import NamedTuple

from swarmlet.cli.client import Client, Object, quote
from swarmlet.cli.errors import ApiError, CommandError
from swarmlet.cli.format import SHORT_ID_LENGTH
from swarmlet.cli.options import filters_of
from swarmlet.cli.service.listing import NOT_FOUND


class Target(NamedTuple):
    """A running task; `name` for people: web.1."""

    task_id: str
    name: str
    node_id: str
    service_id: str


def shown(client: Client, target: Target) -> str:
    """For people, with the node's name."""
    node = _look_up(client, "nodes", target.node_id) or {}
    name = (node.get("Description") or {}).get("Hostname") or target.node_id
    return f"{target.name} (task {target.task_id[:SHORT_ID_LENGTH]}, node {name})"


def find_target(client: Client, ref: str) -> Target:
    """SERVICE (its running task of the lowest slot), SERVICE.SLOT, SERVICE.NODE or a task's id.
    Raises CommandError where none runs."""
    service = _look_up(client, "services", ref)
    if service is not None:
        return _of_service(client, service, "")
    name, dot, place = ref.rpartition(".")
    service = _look_up(client, "services", name) if dot and name and place else None
    if service is not None:
        return _of_service(client, service, place)
    task = _look_up(client, "tasks", ref)
    if task is None:
        raise CommandError(
            f"There is no service and no task {ref!r}.", "`swarmlet service ls` lists the services."
        )
    service = _look_up(client, "services", task["ServiceID"])
    return _target(task, task["ServiceID"] if service is None else service["Spec"]["Name"])


def _of_service(client: Client, service: Object, place: str) -> Target:
    """`place`: a slot, a node's name or id, or "" for any."""
    name = service["Spec"]["Name"]
    scope = {"service": {service["ID"]: True}, "desired-state": {"running": True}}
    tasks = [
        task
        for task in client.get("/tasks", **filters_of(scope))
        if (task.get("Status") or {}).get("State") == "running"
    ]
    if place:
        node = None if place.isdigit() else _look_up(client, "nodes", place)
        node_id = "" if node is None else node["ID"]
        tasks = [
            task
            for task in tasks
            if str(task.get("Slot") or "") == place or (node_id and task.get("NodeID") == node_id)
        ]
    if not tasks:
        where = f"{name}.{place}" if place else f"service {name}"
        raise CommandError(
            f"No task of {where} is running.", f"`swarmlet service why {name}` says why."
        )
    first = min(tasks, key=lambda task: (task.get("Slot") or 0, task.get("NodeID", ""), task["ID"]))
    return _target(first, name)


def _target(task: Object, service: str) -> Target:
    node_id = task.get("NodeID", "")
    name = f"{service}.{task.get('Slot') or node_id}"
    return Target(task["ID"], name, node_id, task["ServiceID"])


def _look_up(client: Client, kind: str, ref: str) -> Object | None:
    try:
        found: Object = client.get(f"/{kind}/{quote(ref)}")
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        return None
    return found

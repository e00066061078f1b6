"""What must hold in a simulated swarm of managers and agents, looked at from outside all of them.

Of the log: a task's node never changes, neither state of it goes back, and what was acknowledged
is there. Of the hosts: what runs where, and who holds which secret.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.change import Event
from swarmlet.model.node import Node, NodeState
from swarmlet.model.on_disconnect import on_disconnect_of
from swarmlet.model.service import Service, ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of, task_spec_of
from swarmlet.reconcile.eligibility import Standing, standing_of
from swarmlet.reconcile.instances import Instance, instance_of
from swarmlet.reconcile.slots import Dirt, replicas_of
from swarmlet.store.store import Store
from tests.reconcile.floor import Floor

if TYPE_CHECKING:
    from tests.sim.fleet import Fleet, Machine

SURE_S = 30.0  # after this a host that is there has been told what to run
LOOKS = 8  # at what takes longer: every so many of the others
_RUNNING = TaskState.RUNNING
_CONNECTED = (NodeState.READY, NodeState.UNKNOWN)


class WrongError(AssertionError):
    """Something that must never be."""


class _Seen(msgspec.Struct):
    node_id: str
    observed: int
    desired: int


class Truth:
    def __init__(self, fleet: "Fleet") -> None:
        self._fleet = fleet
        self._tasks: dict[str, _Seen] = {}
        self._stores: dict[int, Store] = {}
        self._index = 0
        self._needed_by: dict[str, set[str]] = {}  # ids of secrets, by node, ever
        self._connected_s: dict[str, float] = {}  # since when nodes' rows say so
        self._used_s: dict[tuple[str, str], float] = {}  # node and secret: when it was last needed
        self._looks, self._led_by, self._led_s = 0, None, 0.0  # who leads, and since when
        self._problem: WrongError | None = None
        self.asked: dict[str, list[int]] = {}  # by service: the numbers users asked for
        self.acknowledged: dict[str, int] = {}  # and the last one that was acknowledged
        self.gone: set[str] = set()  # services whose removal was asked for
        self.floor = Floor()
        self.digest = hashlib.sha256()
        self.entries = 0

    def wrong(self, what: str) -> None:
        self._problem = self._problem or WrongError(f"{self._fleet.now_s:.3f} s: {what}")

    def look(self) -> None:
        """At everything there is to see. Raises WrongError."""
        self._attach()
        if not self._fleet.has_wrong_clocks:
            self._check_singles()
        self._check_wanted()
        self._check_payloads()
        leader = self._fleet.leader()
        if leader is None or leader is not self._led_by:
            self._led_by, self._led_s = leader, self._fleet.now_s
        self._looks += 1
        if self._looks % LOOKS == 0:
            self._check_told()
        if self._problem is not None:
            raise self._problem

    # The log --------------------------------------------------------------------------------------

    def _attach(self) -> None:
        for machine in self._fleet.running():
            member = machine.member
            if member is not None and id(member.store) not in self._stores:
                store = self._stores[id(member.store)] = member.store
                store.subscribe(lambda events, store=store: self._applied(store, events))

    def _applied(self, store: Store, events: Sequence[Event]) -> None:
        """Whoever applies an entry first tells of it; what others tell later is old."""
        index = store.view().index
        if index <= self._index:
            return
        self._index = index
        self.entries += 1
        self.floor.judge(store.view(), events)
        for what in self.floor.wrongs[:1]:
            self.wrong(what)
        for event in events:
            if event.table is Task:
                self._task(event)
                self._note_needs(store.view(), event.new)
            elif event.table is Node:
                self._node(event)
            elif event.table is Service:
                self._service(store.view(), event)
            self.digest.update(f"{index} {event.table.__name__} {event.id}".encode())

    def _task(self, event: Event) -> None:
        new = event.new
        if not isinstance(new, Task):
            self._tasks.pop(event.id, None)
            return
        seen = self._tasks.get(new.id)
        if seen is not None:
            if seen.node_id and new.node_id != seen.node_id:
                self.wrong(f"task {new.id} moved from {seen.node_id} to {new.node_id}")
            if new.status.state < seen.observed or new.desired < seen.desired:
                self.wrong(f"a state of task {new.id} went back")
        self._tasks[new.id] = _Seen(new.node_id, new.status.state, new.desired)

    def _node(self, event: Event) -> None:
        old, new = event.old, event.new
        if not isinstance(new, Node) or new.status.state not in _CONNECTED:
            self._connected_s.pop(event.id, None)
        else:
            self._connected_s.setdefault(event.id, self._fleet.now_s)
        is_down = isinstance(new, Node) and new.status.state == NodeState.DOWN
        was_down = isinstance(old, Node) and old.status.state == NodeState.DOWN
        self._fleet.counts["node-down"] += is_down and not was_down

    def _service(self, view: View, event: Event) -> None:
        new = event.new
        if not isinstance(new, Service):
            assert isinstance(event.old, Service)
            if event.old.name not in self.gone:
                self.wrong(f"service {event.old.name} vanished, and nobody asked for that")
        else:
            self._check_number(new.name, int(spec_of(view, new).labels.get("number", "0")))

    def _check_number(self, name: str, number: int) -> None:
        if number not in self.asked.get(name, ()):
            self.wrong(f"{name} has a spec that nobody asked for: {number}")
        if number < self.acknowledged.get(name, 0):
            self.wrong(f"{name} lost an acknowledged update")

    def _note_needs(self, view: View, task: object) -> None:
        if isinstance(task, Task) and task.node_id:
            container = task_spec_of(view, task).task_template.container_spec
            needed = self._needed_by.setdefault(task.node_id, set())
            needed.update(ref.secret_id for ref in container.secrets)

    # The hosts ------------------------------------------------------------------------------------

    def _check_singles(self) -> None:
        """A slot of a `stop-after` service never runs on two hosts whose daemons watch over their
        tasks, be they reached or not."""
        leader = self._fleet.leader()
        if leader is None:
            return
        view, seen = leader.member.store.view(), {}
        for machine in self._fleet.machines:
            for task_id in machine.runtime.running() if machine.is_watching() else ():
                task = view.tasks.get(task_id)
                if task is None or not _stops_after(view, task):
                    continue
                place = (task.service_id, instance_of(task))
                other = seen.setdefault(place, (task_id, machine.host))
                if other[0] != task_id:
                    self.wrong(
                        f"slot {task.slot} of a stop-after service runs as {task_id} on "
                        f"{machine.host} and as {other[0]} on {other[1]}"
                    )

    def _check_wanted(self) -> None:
        """Hosts that are there know what is wanted of them: no slot runs on more of them than its
        service allows. What is moved for balance runs beside its successor, whatever the order."""
        leader = self._fleet.leader()
        if leader is None:
            return
        view, sure_s = leader.member.store.view(), self._fleet.now_s - SURE_S
        runs: dict[tuple[str, Instance], list[str]] = {}
        for machine in self._fleet.running():
            if not machine.is_there or machine.there_since_s > sure_s:
                continue
            for task_id in machine.runtime.running():
                task = view.tasks.get(task_id)
                if task is not None and task.desired == TaskState.RUNNING and not task.move_ms:
                    runs.setdefault((task.service_id, instance_of(task)), []).append(task_id)
        for (service_id, slot), tasks in runs.items():
            if len(tasks) > _overlap(view, service_id):
                self.wrong(f"slot {slot} of service {service_id} runs as {sorted(tasks)}")

    def _check_payloads(self) -> None:
        """A node holds the secrets of tasks it was given, and no others."""
        for machine in self._fleet.running():
            held = held_secrets(machine)
            if not held <= self._needed_by.get(machine.node_id, set()):
                self.wrong(f"{machine.host} holds secrets that none of its tasks ever needed")

    def _check_told(self) -> None:
        """Of hosts that have long been told all: a slot of a service that stops first runs once,
        whatever is desired; and no secret outlives the last task that needs it."""
        leader = self._fleet.leader()
        if leader is None:
            return
        view = leader.member.store.view()
        told = [machine for machine in self._fleet.running() if self._is_told(machine)]
        runs: dict[tuple[str, Instance], list[str]] = {}
        for task_id in (task_id for machine in told for task_id in machine.runtime.running()):
            task = view.tasks.get(task_id)
            if task is not None and task.desired < TaskState.REMOVE and not task.move_ms:
                runs.setdefault((task.service_id, instance_of(task)), []).append(task_id)
        for (service_id, slot), tasks in runs.items():
            if len(tasks) > 1 and _overlap(view, service_id) == 1:
                self.wrong(f"slot {slot} of stop-first service {service_id} runs as {tasks}")
        for machine in self._fleet.running():
            self._check_used(view, machine, told)

    def _check_used(self, view: View, machine: "Machine", told: Sequence["Machine"]) -> None:
        now_s, node_id = self._fleet.now_s, machine.node_id
        tasks = [one for one in view.tasks.scan("node", node_id) if one.status.state <= _RUNNING]
        for secret_id in self._needed(view, [task.id for task in tasks]):
            self._used_s[node_id, secret_id] = now_s
        for secret_id in sorted(held_secrets(machine)) if machine in told else ():
            if self._used_s.get((node_id, secret_id), now_s) < now_s - SURE_S:
                self.wrong(f"{machine.host} holds secret {secret_id}, which nobody there uses")

    def _is_told(self, machine: "Machine") -> bool:
        """Whether it is there, its row says so, and somebody leads, for long."""
        sure_s = self._fleet.now_s - SURE_S
        since_s = self._connected_s.get(machine.node_id, self._fleet.now_s)
        return machine.is_there and max(machine.there_since_s, since_s, self._led_s) <= sure_s

    # What must come to hold -----------------------------------------------------------------------

    def troubles(self, view: View) -> list[str]:
        found = list(self._of_services(view))
        for machine in self._fleet.machines:
            wanted = sorted(
                task.id
                for task in view.tasks.scan("node", machine.node_id)
                if task.desired == TaskState.RUNNING == task.status.state
            )
            row = view.nodes.get(machine.node_id)
            if wanted and row is not None and row.spec.availability == "drain":
                found.append(f"{machine.host} is drained and runs {wanted}")
            if machine.runtime.running() != wanted:
                found.append(f"{machine.host} runs {machine.runtime.running()}, wanted {wanted}")
            elif machine.is_running and held_secrets(machine) != self._needed(view, wanted):
                found.append(f"{machine.host} holds other secrets than its tasks need")
            found += self._files(view, machine)
        return found

    def _files(self, view: View, machine: "Machine") -> Iterator[str]:
        """Each task got what its secrets say."""
        for task_id in machine.runtime.running():
            task = view.tasks.get(task_id)
            needed = self._needed(view, [task_id])
            wanted = sorted(view.secrets.get(one).spec.data for one in needed)
            given = sorted(file.data for file in machine.runtime.tasks[task_id].files)
            if task is not None and given != wanted:
                self.wrong(f"task {task_id} was given other files than its service's secrets")
        return iter(())

    def _needed(self, view: View, task_ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for task_id in task_ids:
            task = view.tasks.get(task_id)
            container = task_spec_of(view, task).task_template.container_spec if task else None
            found |= {ref.secret_id for ref in container.secrets} if container else set()
        return found

    def _of_services(self, view: View) -> Iterator[str]:
        names = {service.name for service in view.services.all()}
        for name in sorted(self.acknowledged):
            if name not in names and name not in self.gone:
                self.wrong(f"service {name} was acknowledged and is lost")
        for service in sorted(view.services.all(), key=lambda one: one.name):
            yield from self._of_service(view, service)

    def _of_service(self, view: View, service: Service) -> Iterator[str]:
        spec = spec_of(view, service)
        self._check_number(service.name, int(spec.labels.get("number", "0")))
        tasks = list(view.tasks.scan("service", service.id))
        live = [task for task in tasks if task.desired == TaskState.RUNNING]
        runs = [task for task in live if task.status.state == TaskState.RUNNING]
        slots = {instance_of(task) for task in live}
        wanted = _wanted(view, spec)
        if not len(slots) == len(live) == len(runs) == wanted:
            found = f"{len(runs)} of {len(live)} run in {len(slots)} slots of {wanted}"
            yield f"{service.name}: {found}"
        dirt = Dirt(view, service)
        if any(dirt.is_on(view, task) for task in live):
            yield f"{service.name}: tasks of an older spec, {service.update_status}"


def _wanted(view: View, spec: ServiceSpec) -> int:
    """How many tasks should run."""
    replicas = replicas_of(spec)
    if replicas is not None:
        return replicas
    return sum(standing_of(node, spec) is Standing.OPEN for node in view.nodes.all())


def _stops_after(view: View, task: Task) -> bool:
    try:
        return bool(on_disconnect_of(task_spec_of(view, task)).stop_after_s)
    except InvalidArgumentError:
        return False


def _overlap(view: View, service_id: str) -> int:
    service = view.services.get(service_id)
    if service is None:
        return 1
    config = spec_of(view, service).update_config
    return 1 if config is not None and config.order == "stop-first" else 2


def held_secrets(machine: "Machine") -> set[str]:
    """What the machine's agent has of secrets in its memory."""
    life = getattr(machine.engine._stay, "life", None)
    if life is None:
        return set()
    held = life.agent._worker.payloads._held
    return {payload_id for kind, payload_id in held if kind == "secret"}

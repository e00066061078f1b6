"""Why a node is as it is: its state, what it takes and has left, its tasks that do not run."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from swarmlet.model.node import IssuanceState, Node, NodeState
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.liveness import HOST_STOPPED, LEFT, STOPPED
from swarmlet.reconcile.restart import has_stopped
from swarmlet.reconcile.scheduler.filters import counts_of, is_active
from swarmlet.reconcile.scheduler.nodeset import NodeState as Counted
from swarmlet.reconcile.scheduler.shortages import CPU, MEMORY
from swarmlet.reconcile.why.answers import (
    Amounts,
    Groups,
    Load,
    NodeWhy,
    Reason,
    Verdict,
    worst,
)
from swarmlet.reconcile.why.iterations import slot_of
from swarmlet.reconcile.why.standing import is_flapping, state_sentence, waited_for
from swarmlet.reconcile.why.tasks import Sight, failed_lately, is_running, reason_of
from swarmlet.reconcile.why.words import counted, left, name_of, span

SLICE_TASKS: Final = 500
LOADS_MAX: Final = 10  # services named


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows do not say. `certificate_ends_ms` (wall, 0: unknown). Of a manager, as the one
    that is asked hears it: `reachability` in Docker's words, "" of a worker; `silent_since_ms`."""

    certificate_ends_ms: int = 0
    reachability: str = ""
    is_leader: bool = False
    silent_since_ms: int = 0


def explain_node(view: View, node: Node, facts: NodeFacts, now_ms: int) -> Steps[NodeWhy]:
    """All of it, in time linear in its tasks."""
    sight = Sight(view, now_ms)
    tasks = sorted(view.tasks.scan("node", node.id), key=lambda t: (t.service_id, t.slot, t.id))
    state = yield from sight.room.count_node(node)
    wanted = [task for task in tasks if task.desired <= TaskState.COMPLETE and not _is_done(task)]
    waiting, lately = Groups(), Groups(is_over=True)
    loads, running = dict[str, int](), 0
    yield from sight.prepare(wanted)
    for number, task in enumerate(wanted, 1):
        if number % SLICE_TASKS == 0:
            yield
        if task.status.state == TaskState.RUNNING:
            loads[task.service_id] = loads.get(task.service_id, 0) + 1
        if is_running(view, task):
            running += 1
        else:
            waiting.add(sight.ref(task), reason_of(sight, task, slot_of(view, task)))
    for number, task in enumerate(tasks, 1):
        if number % SLICE_TASKS == 0:
            yield
        if task.desired > TaskState.COMPLETE and failed_lately(task, now_ms):
            lately.add(sight.ref(task), reason_of(sight, task, slot_of(view, task)))
    reasons = tuple(_own_reasons(node, facts, tasks, now_ms))
    shown, beyond = waiting.most_first()
    return NodeWhy(
        id=node.id,
        hostname=name_of(node),
        verdict=worst([waiting.verdict(), *(reason.verdict for reason in reasons)]),
        running=running,
        wanted=len(wanted),
        reasons=reasons,
        amounts=tuple(_amounts(state)),
        loads=tuple(_loads(view, loads)[:LOADS_MAX]),
        more_loads=max(0, len(loads) - LOADS_MAX),
        waiting=shown,
        lately=lately.most_first()[0],
        unshown=beyond,
    )


def _is_done(task: Task) -> bool:
    return task.desired == TaskState.COMPLETE == task.status.state


def _amounts(state: Counted) -> Iterator[Amounts]:
    """What it has, and what its tasks reserve of it."""
    has = state.node.description.resources
    yield Amounts(what=CPU, total=has.nano_cpus, reserved=has.nano_cpus - state.cpu_nano)
    yield Amounts(what=MEMORY, total=has.memory_bytes, reserved=has.memory_bytes - state.memory_b)
    for kind, total in sorted(counts_of(has.generic_resources).items()):
        yield Amounts(what=kind, total=total, reserved=total - state.generic.get(kind, 0))


def _loads(view: View, loads: dict[str, int]) -> list[Load]:
    order = sorted(loads, key=lambda service_id: (-loads[service_id], service_id))
    found: list[Load] = []
    for service_id in order:
        service = view.services.get(service_id)
        name = service_id if service is None else service.name
        found.append(Load(service_id=service_id, service_name=name, running=loads[service_id]))
    return found


def _own_reasons(
    node: Node, facts: NodeFacts, tasks: Sequence[Task], now_ms: int
) -> Iterator[Reason]:
    yield _state(node, now_ms)
    if node.status.state == NodeState.READY and is_flapping(node, now_ms):
        yield Reason(
            code="flapping",
            sentence=f"{node.status.message or 'It was lost often within ten minutes'}.",
            since_ms=node.status.lost_ms[0],
            remedy="look at its network, its power and `swarmlet doctor` there",
        )
    yield from _availability(node, tasks, now_ms)
    yield from _role(node, facts, now_ms)
    yield from _certificate(node, facts, now_ms)


_CODES: Final = {
    NodeState.READY: "ready",
    NodeState.DOWN: "down",
    NodeState.DISCONNECTED: "disconnected",
    NodeState.UNKNOWN: "unknown",
}


def _remedy(node: Node) -> str:
    """For what is not ready."""
    message = node.status.message
    if message == LEFT:
        return f"`swarmlet node rm {node.description.hostname or node.id}` forgets it"
    if message == HOST_STOPPED:
        return "start its host again"
    if message.startswith(STOPPED):
        return "start its daemon again"
    return "see that its host runs and reaches the managers on their port"


def _state(node: Node, now_ms: int) -> Reason:
    status = node.status
    is_ready = status.state == NodeState.READY
    parts = [state_sentence(node, now_ms), waited_for(node, now_ms)]
    if is_ready and is_flapping(node, now_ms):
        bare = msgspec.structs.replace(status, message="")  # it is a reason of its own
        parts[0] = state_sentence(msgspec.structs.replace(node, status=bare), now_ms)
    return Reason(
        code="held" if status.held_until_ms > now_ms else _CODES[NodeState(status.state)],
        sentence="; ".join(filter(None, parts)) + ".",
        remedy="" if is_ready else _remedy(node),
        since_ms=status.since_ms,
        until_ms=0 if is_ready else max(status.down_at_ms, status.held_until_ms),
        error=status.message,
        verdict=Verdict.WELL if is_ready else Verdict.UNSETTLED,
    )


def _availability(node: Node, tasks: Sequence[Task], now_ms: int) -> Iterator[Reason]:
    if is_active(node):
        return
    name = name_of(node)
    left_here = sum(not has_stopped(task) and _is_on(task) for task in tasks)
    there = f"{counted(left_here, 'task')} {'is' if left_here == 1 else 'are'} still there"
    sentence, until_ms = f"Its availability is {node.spec.availability}: it takes no new tasks", 0
    if node.spec.availability == "drain":
        sentence += f", and its own go elsewhere; {there if left_here else 'it is empty'}"
        if node.drain is not None:
            until_ms = node.drain.deadline_ms
            sentence += _plan_words(node.drain.began_ms, until_ms, now_ms)
    elif left_here:
        sentence += f"; {there} and may stay"
    yield Reason(
        code=node.spec.availability,
        sentence=sentence + ".",
        remedy=f"`swarmlet node update --availability active {name}`",
        since_ms=0 if node.drain is None else node.drain.began_ms,
        until_ms=until_ms,
    )


def _plan_words(began_ms: int, deadline_ms: int, now_ms: int) -> str:
    words = f"; replacements start first, since {span(now_ms - began_ms)}"
    if deadline_ms > now_ms:
        words += f", and what is left is stopped in {left(deadline_ms, now_ms)}"
    return words


def _is_on(task: Task) -> bool:
    return task.status.state >= TaskState.ASSIGNED


def _role(node: Node, facts: NodeFacts, now_ms: int) -> Iterator[Reason]:
    wanted = node.spec.role or node.role
    if wanted != node.role:
        verb = "promoted" if wanted == "manager" else "demoted"
        yield Reason(code=verb, sentence=f"It is being {verb}: it is still a {node.role}.")
    if not facts.reachability:
        return
    words = f"As a manager it is {facts.reachability}"
    if facts.is_leader:
        words += ", and leads"
    if facts.silent_since_ms:
        words += f", silent for {span(now_ms - facts.silent_since_ms)}"
    if facts.reachability == "reachable":
        yield Reason(code="manager", sentence=words + ".", verdict=Verdict.WELL)
        return
    yield Reason(
        code=f"manager-{facts.reachability}",
        sentence=words + ".",
        since_ms=facts.silent_since_ms,
        remedy="`swarmlet info` on a manager shows what each hears of the others",
    )


def _certificate(node: Node, facts: NodeFacts, now_ms: int) -> Iterator[Reason]:
    state, ends_ms = node.certificate.state, facts.certificate_ends_ms
    if state == IssuanceState.FAILED:
        yield Reason(
            code="certificate-failed",
            sentence=f"Its next certificate could not be signed: {node.certificate.err}.",
            remedy="`swarmlet ca` and the leader's log",
            error=node.certificate.err,
        )
    elif state in (IssuanceState.RENEW, IssuanceState.PENDING):
        yield Reason(
            code="certificate-pending", sentence="It waits for its next certificate to be signed."
        )
    elif state == IssuanceState.ROTATE:
        yield Reason(
            code="certificate-rotate",
            sentence="It has yet to renew its certificate with the swarm's new root.",
        )
    if not ends_ms:
        return
    if ends_ms <= now_ms:
        words = f"Its certificate expired {span(now_ms - ends_ms)} ago; it may renew and no more."
        yield Reason(code="certificate-expired", sentence=words, since_ms=ends_ms)
        return
    words = f"Its certificate is valid for {span(ends_ms - now_ms)} more."
    yield Reason(code="certificate", sentence=words, until_ms=ends_ms, verdict=Verdict.WELL)

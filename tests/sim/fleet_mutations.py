"""The product with one piece taken out that keeps a promise of the swarm: some seed, or some story,
must notice. Which do: docs/reliability.md.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from swarmlet.agent import shell, worker
from swarmlet.agent.disconnect import DisconnectWatch
from swarmlet.agent.payloads import Payloads
from swarmlet.agent.session import RegisterAnewError, Session
from swarmlet.agent.shell import TaskShell
from swarmlet.agent.state_db import StateDB
from swarmlet.agent.worker import Worker
from swarmlet.manager.control.base import ControlBase
from swarmlet.manager.status_batch import StatusBatch
from swarmlet.model.change import Assign, SetStatus
from swarmlet.model.node import NodeState
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View
from swarmlet.reconcile import dispatch, replicated, restart, slot
from swarmlet.reconcile.base import Decision
from swarmlet.reconcile.restart import must_leave
from swarmlet.store import apply
from swarmlet.store.codec import AssignRecord, StatusRecord
from tests.sim.mutations import Replacement

_turn, _held_by, _restart = dispatch.PayloadUsers.turn, Payloads.replace, slot._restart
_put = StateDB.put


def _assign_anyway(draft: Any, change: Any) -> None:
    """Whoever has a node already gets another one."""
    old = draft._task(change.id)
    if old is not None and draft._node(change.node_id) is not None:
        status = replace(old.status, state=int(TaskState.ASSIGNED))
        draft._rewrite_task(old, node_id=change.node_id, status=status)


def _move(view: View, service: Any, task: Task, others: Any, moment: Any) -> Decision:
    """A lost task goes to another node, where a successor would have."""
    rows = [row for row in view.nodes.all() if row.status.state == NodeState.READY]
    if not must_leave(view, task) or not rows:
        return _restart(view, service, task, others, moment)
    return Decision(changes=(Assign(id=task.id, node_id=rows[0].id),), reasons=("moved",))


def _take_any_status(draft: Any, change: Any) -> None:
    """The newest word counts, not the furthest."""
    old = draft._task(change.id)
    if old is not None and change.status != old.status:
        draft._rewrite_task(old, status=change.status)


def _all_changes(batch: Any, statuses: Mapping[str, Any]) -> list[SetStatus]:
    """Whatever was reported."""
    tasks = batch._store.view().tasks
    return [SetStatus(id=one, status=status) for one, status in statuses.items() if tasks.get(one)]


async def _told_at_once(db: Any) -> None:
    """What is told need not be on the disk."""


def _begin_anew(db: Any, task: Any) -> None:
    """What an agent has forgotten it begins from the start, whatever its manager knows of it."""
    if task.id not in db.tasks:
        task = replace(task, status=replace(task.status, state=int(TaskState.ASSIGNED)))
    _put(db, task)


def _ours(ours: Any, theirs: Any) -> Any:
    """An agent believes its own memory alone."""
    return ours


def _at_once(task: Task, others: Sequence[Task], view: View, created_ms: int) -> int:
    """A successor waits for its delay alone."""
    return task.start_at_ms


def _no_time(view: View, task: Task) -> int:
    """Managers take every service for one whose tasks may run twice."""
    return 0


def _never_act(watch: Any) -> None:
    """Agents let everything run on."""


def _take_nothing_back(users: Any, view: View, node_id: str, task_ids: Iterable[str]) -> Any:
    return _turn(users, view, node_id, task_ids)._replace(gone=())


def _need_all(view: View, node_id: str, task_id: str) -> tuple[tuple[str, str], ...]:
    """Every node gets every secret."""
    return tuple(("secret", row.id) for row in view.secrets.all())


def _keep_what_was(payloads: Any, held: Mapping[Any, Any]) -> None:
    _held_by(payloads, {**payloads._held, **held})


async def _say_done(verbs: Any, what: str, changes: Sequence[Any], guards: Any = ()) -> None:
    """What users ask for is acknowledged once it was proposed."""
    asked = asyncio.get_running_loop().create_task(verbs._store.commit(changes, guards))
    asked.add_done_callback(lambda one: one.cancelled() or one.exception())
    await asyncio.sleep(0)


async def _register_again(session: Any, told: Any) -> None:
    await asyncio.sleep(5.0)
    raise RegisterAnewError("This node takes itself for changed.")


def _only_add(self: Any, put: Iterable[Any], gone: Iterable[str], *, is_complete: bool) -> None:
    """What is not in the list stays."""
    for task in put:
        self._put(task)


async def _start_at_once(one: Any) -> Any:
    """Without a word of any manager's in this life of the daemon."""
    if not one._is_prepared:
        await one._prepare()
    files = await one._bench.payloads.files(one.task, one._bench.describe)
    return await one._bench.runtime.start(one._expanded(), files)


MUTATIONS: Final[dict[str, tuple[Replacement, ...]]] = {
    "a node is given once": (
        (apply, "_VERBS", {**apply._VERBS, AssignRecord: _assign_anyway}),
        (slot, "_restart", _move),
    ),
    "states go forward": (
        (apply, "_VERBS", {**apply._VERBS, StatusRecord: _take_any_status}),
        (StatusBatch, "_changes", _all_changes),
        (StateDB, "durable", _told_at_once),
        (StateDB, "put", _begin_anew),
        (shell, "further", _ours),
        (worker, "further", _ours),
    ),
    "a successor waits for those before it": ((slot, "due_ms", _at_once),),
    "agents stop what is cut off": ((DisconnectWatch, "_act", _never_act),),
    "managers wait for stop-after": (
        (slot, "leaves_ms", _no_time),
        (slot, "runs_until_ms", _no_time),
        (restart, "runs_until_ms", _no_time),
        (replicated, "runs_until_ms", _no_time),
    ),
    "a restarted agent asks first": ((TaskShell, "_start", _start_at_once),),
    "secrets are taken back": ((dispatch.PayloadUsers, "turn", _take_nothing_back),),
    "secrets go where they are needed": ((dispatch, "needed", _need_all),),
    "a complete list is all a node holds": ((Payloads, "replace", _keep_what_was),),
    "committed before acknowledged": ((ControlBase, "_commit", _say_done),),
    "an unchanged node is quiet": ((Session, "_watch_description", _register_again),),
    "what is not in the list stops": ((Worker, "assign", _only_add),),
}

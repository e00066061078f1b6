"""Finding objects by what users call them, and how a service stands."""

import pytest

from swarmlet.core.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from swarmlet.manager.control import desired_tasks, service_status
from swarmlet.model.base import Empty
from swarmlet.model.change import Create
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.node import NodeState
from swarmlet.model.service import (
    EndpointSpec,
    JobStatus,
    PortConfig,
    ReplicatedJobMode,
    ReplicatedMode,
    Service,
    ServiceMode,
    ServiceSpec,
    SpecVersion,
)
from swarmlet.model.task import TaskState
from swarmlet.wire.messages import LogOptions
from tests.manager.control_world import SELF, new_swarm, task_of, web, worker
from tests.reconcile.explained import answer_of
from tests.store.memory_log import ME

A1, A2, B1 = "a1" + "0" * 23, "a2" + "0" * 23, "b1" + "0" * 23


def config(row_id, name):
    return Create(obj=Config(id=row_id, spec=ConfigSpec(name=name, data=b"x")))


@pytest.mark.parametrize(
    ("ref", "row_id"),
    [
        (A1, A1),
        ("b1", B1),
        ("a10", A1),
        ("one", A1),
        ("ONE", A1),
        ("a2", B1),  # a name goes before the beginning of an id
        (A2, A2),  # a full id goes before a name
    ],
)
async def test_reference_is_an_id_then_a_name_then_the_beginning_of_an_id(ref, row_id):
    swarm = await new_swarm()
    await swarm.put(config(A1, "one"), config(A2, "two"), config(B1, "a2"))
    assert swarm.control.find_config(swarm.view, ref).id == row_id


async def test_ambiguous_and_unknown_references_are_refused():
    swarm = await new_swarm()
    await swarm.put(config(A1, "one"), config(A2, "two"))
    with pytest.raises(InvalidArgumentError) as refused:
        swarm.control.find_config(swarm.view, "a")
    assert refused.value.message == "config a is ambiguous (2 matches found)"
    for ref in ("nope", "A1", "a1*", "on", A1 + "0"):
        with pytest.raises(NotFoundError) as unknown:
            swarm.control.find_config(swarm.view, ref)
        assert unknown.value.message == f"config {ref} not found"
    with pytest.raises(InvalidArgumentError, match="must be given"):
        swarm.control.find_config(swarm.view, "")


async def test_node_is_found_by_its_host_name():
    swarm = await new_swarm()
    await swarm.put(worker("w1", "Alpha"), worker("w2", "beta"), worker("w3", "beta"))
    assert swarm.control.find_node(swarm.view, "alpha").id == "w1"
    with pytest.raises(InvalidArgumentError, match=r"node beta is ambiguous \(2 matches found\)"):
        swarm.control.find_node(swarm.view, "beta")


async def test_task_is_found_by_id_name_and_beginning():
    swarm = await new_swarm()
    service_id = (await swarm.control.create_service(web())).id
    await swarm.put(task_of(service_id, A1, slot=3), task_of("gone", B1, slot=1))
    find = swarm.control.find_task
    assert find(swarm.view, A1).id == A1
    assert find(swarm.view, f"web.3.{A1}").id == A1
    assert find(swarm.view, "a").id == A1
    assert find(swarm.view, B1).id == B1
    for ref in (f"web.4.{A1}", f"x.3.{A1}", f"gone.1.{B1}", "web.3.a1", "nope"):
        with pytest.raises(NotFoundError, match=r"task .* not found"):
            find(swarm.view, ref)


async def test_every_kind_says_its_own_name_when_unknown():
    swarm = await new_swarm()
    for kind in ("node", "service", "task", "secret", "config", "network"):
        with pytest.raises(NotFoundError) as unknown:
            getattr(swarm.control, f"find_{kind}")(swarm.view, "nope")
        assert unknown.value.message == f"{kind} nope not found"
        assert unknown.value.http_status == 404


async def test_leadership_is_what_the_log_says():
    swarm = await new_swarm()
    assert swarm.control.leadership().is_ready
    assert swarm.control.leadership().leader == ME.raft_id
    swarm.log.lose()
    assert not swarm.control.leadership().is_ready
    assert [one.member for one in swarm.control.health().members] == [ME]


async def test_logs_come_from_the_broker():
    swarm = await new_swarm()
    await swarm.put(task_of("sa", "t1"), task_of("sa", "t2"))
    tasks = sorted(swarm.view.tasks.all(), key=lambda task: task.id)
    lines = [line.data async for line in swarm.control.read_logs(tasks, LogOptions())]
    assert lines == [b"t1", b"t2"]


# How a service stands ----------------------------------------------------------------------------
async def standing(mode, *tasks, iteration=None):
    swarm = await new_swarm()
    job = JobStatus(iteration=iteration) if iteration is not None else None
    spec = ServiceSpec(name="web", mode=mode)
    await swarm.put(
        Create(obj=SpecVersion(id="sa@1", service_id="sa", number=1, spec=spec)),
        Create(obj=Service(id="sa", name="web", job_status=job)),
        *(task_of("sa", f"t{n}", **fields) for n, fields in enumerate(tasks)),
        task_of("other", "o1"),
    )
    service = swarm.view.services.get("sa")
    status = answer_of(service_status(swarm.view, service, 0))
    assert status.desired == desired_tasks(swarm.view, service)
    return status.running, status.desired, status.completed


async def test_replicated_service_counts_what_runs():
    mode = ServiceMode(replicated=ReplicatedMode(replicas=3))
    assert await standing(
        mode,
        {},
        {"state": TaskState.READY},
        {"state": TaskState.FAILED, "desired": TaskState.SHUTDOWN},
        {"state": TaskState.COMPLETE, "desired": TaskState.SHUTDOWN},
    ) == (1, 3, 0)


async def test_what_last_ran_on_a_node_that_is_down_does_not_count():
    """Its replacement does: the service would show 2/1."""
    swarm = await new_swarm()
    made = await swarm.control.create_service(web("web", 1))
    await swarm.put(
        worker("lost", state=NodeState.DOWN),
        worker("away", state=NodeState.DISCONNECTED),
        task_of(made.id, "t1", node_id="lost", desired=TaskState.SHUTDOWN),
        task_of(made.id, "t2", node_id="away"),
    )
    service = swarm.view.services.get(made.id)
    assert answer_of(service_status(swarm.view, service, 0)).running == 1


async def test_global_service_wants_what_the_orchestrator_wants():
    assert await standing(
        ServiceMode(global_=Empty()),
        {"node_id": SELF},
        {"state": TaskState.PENDING},
        {"desired": TaskState.SHUTDOWN},
    ) == (2, 2, 0)


async def test_jobs_count_the_completed_of_this_iteration():
    mode = ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=2, total_completions=9))
    done = {"state": TaskState.COMPLETE, "desired": TaskState.COMPLETE}
    assert await standing(
        mode, {**done, "job_iteration": 1}, {**done, "job_iteration": 0}, {}, iteration=1
    ) == (1, 2, 1)
    assert await standing(
        ServiceMode(global_job=Empty()),
        done,
        {"state": TaskState.RUNNING, "desired": TaskState.COMPLETE},
        iteration=0,
    ) == (1, 1, 1)


async def test_slot_of_a_job_that_ended_well_twice_counts_once():
    """Its task was lost with its node and replaced, and had ended well all the same."""
    mode = ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=2, total_completions=2))
    done = {"state": TaskState.COMPLETE, "slot": 1, "job_iteration": 0}
    lost = {**done, "desired": TaskState.SHUTDOWN}
    assert await standing(mode, done, lost, iteration=0) == (0, 2, 1)


async def test_refused_request_never_reaches_the_log():
    swarm = await new_swarm()
    before = swarm.log.proposals
    with pytest.raises(UnsupportedError):
        await swarm.control.create_service(
            ServiceSpec(
                name="web",
                task_template=web().task_template,
                endpoint_spec=EndpointSpec(ports=[PortConfig(target_port=80)]),
            )
        )
    assert swarm.log.proposals == before

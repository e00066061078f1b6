"""What a swarm of three managers and two workers must stand, on hosts in namespaces and on hosts in
containers: `pytest -m namespaces` and `pytest -m compose` choose one."""

import asyncio
import json
import re
import time
from collections.abc import Callable

import pytest

from tests.cluster.backends import MANAGERS, NAMES, OPENED, Five, is_whole, mend
from tests.cluster.copies import copies, each_once, marked_service
from tests.cluster.page import commands_of, nodes_in, typed
from tests.cluster.swarms import (
    configs_of,
    first_write,
    leader_of,
    node_id,
    spread,
    state_of,
    was_given_up,
)
from tests.daemon.harness import ApiError, wait_for, wait_running

REPLICAS = 10
COLUMNS = ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION"]
SILENT_S = 40.0  # until a node that is not heard of any more has lost its tasks
CALM_S = 2.0

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in OPENED]
)
def net(request):
    with OPENED[request.param]() as found:
        yield found


@pytest.fixture
async def mark(net):
    """Of a service of ten tasks at work; the swarm is whole before and after."""
    mark = f"{time.monotonic_ns()}"
    await until(lambda: is_whole(net), "five nodes")
    client = net["manager1"].client()
    client.post("/services/create", marked_service("web", mark, REPLICAS))
    await asyncio.to_thread(wait_running, client, "web", REPLICAS)
    yield mark
    await asyncio.to_thread(mend, net)
    await until(lambda: is_whole(net), "five nodes")
    net["manager1"].client().delete("/services/web")
    await until(lambda: not copies(net, mark), "the service is gone")


async def until(condition: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
    """Fails with `what` after the limit. Other tasks go on meanwhile."""
    await asyncio.to_thread(wait_for, condition, what=what, limit_s=limit_s)


async def stays(condition: Callable[[], object], for_s: float) -> None:
    """Fails if it does not hold, or ceases to."""
    end_s = time.monotonic() + for_s
    while time.monotonic() < end_s:
        assert await asyncio.to_thread(condition)
        await asyncio.sleep(0.1)


def placed(net: Five) -> list[tuple[str, str]]:
    """Every wanted task and its node, as the first manager that answers says."""
    for name in MANAGERS:
        try:
            tasks = net[name].client().get("/tasks", {"desired-state": ["running"]})
        except (ApiError, OSError):
            continue
        return sorted((task["ID"], task["NodeID"]) for task in tasks)
    return []


async def test_node_ls_shows_five_nodes_with_dockers_columns(net):
    await until(lambda: is_whole(net), "five nodes")
    for name in MANAGERS:
        said = net[name].swarmlet("node", "ls")
        head, *rows = said.stdout.splitlines()
        assert re.split(r"\s{2,}", head.strip()) == COLUMNS
        assert len(rows) == len(NAMES)
        assert [row.split(" * ")[1].split()[0] for row in rows if " * " in row] == [name]
        theirs = net[name].docker("node", "ls", "--format", "json")
        listed = [json.loads(line) for line in theirs.stdout.splitlines()]
        assert sorted(row["Hostname"] for row in listed) == sorted(NAMES)
        assert sorted(row["ManagerStatus"] for row in listed) == [
            *("", "", "Leader", "Reachable", "Reachable")
        ]


@pytest.mark.compose
def test_up_returns_when_manager1_shows_five_nodes(net):
    assert nodes_in(net.said_after_up) == set(NAMES), net.said_after_up
    assert net.said_after_up.count(" Ready ") == len(NAMES), net.said_after_up


async def test_docker_cli_runs_a_service_that_spreads_over_all_nodes(net):
    words = ("--name", "by-docker", "--replicas", "10", "host", "sleep", "1000")
    said = net["manager2"].docker("service", "create", "-d", *words)
    assert said.returncode == 0, said.stderr
    await asyncio.to_thread(wait_running, net["manager3"].client(), "by-docker", 10)
    assert set(spread(net["manager1"], "by-docker").values()) == {2}
    assert net["manager1"].docker("service", "rm", "by-docker").returncode == 0


async def test_logs_and_shells_reach_every_task_from_any_manager(net, mark):
    for task in wait_running(net["manager1"].client(), "web", REPLICAS):
        words = ("service", "exec", task["ID"], "sh", "-c", "echo $SLOT; exit 7")
        said = await asyncio.to_thread(net["manager2"].swarmlet, *words)
        assert (said.returncode, said.stdout.strip()) == (7, str(task["Slot"])), said.stderr
    said = net["manager3"].swarmlet("service", "logs", "web")
    assert sorted(re.findall(r"says (\d+)", said.stdout), key=int) == sorted(
        each_once(REPLICAS), key=int
    )


async def test_dead_workers_tasks_run_elsewhere_and_none_runs_twice_when_it_is_back(net, mark):
    worker = node_id(net["worker1"])
    assert copies(net, mark, "worker1")
    await asyncio.to_thread(net["worker1"].crash)
    rest = [name for name in NAMES if name != "worker1"]
    await until(lambda: copies(net, mark, *rest) == each_once(REPLICAS), "replacements", SILENT_S)
    assert worker not in {node for _, node in placed(net)}
    await asyncio.to_thread(net["worker1"].start)
    await until(lambda: state_of(net["manager1"], worker) == "ready", "the worker is back")
    await stays(lambda: copies(net, mark) == each_once(REPLICAS), CALM_S)


async def test_worker_that_is_cut_off_is_replaced_and_stops_its_surplus_when_healed(net, mark):
    worker = node_id(net["worker2"])
    net.cut("worker2")
    rest = [name for name in NAMES if name != "worker2"]
    await until(lambda: copies(net, mark, *rest) == each_once(REPLICAS), "replacements", SILENT_S)
    assert copies(net, mark, "worker2").total() == 2  # it cannot know
    net.heal()
    await until(lambda: state_of(net["manager1"], worker) == "ready", "the worker is back")
    await until(lambda: copies(net, mark) == each_once(REPLICAS), "the surplus is gone")
    await stays(lambda: copies(net, mark) == each_once(REPLICAS), CALM_S)


async def test_dead_leader_is_replaced_and_writes_go_on(net, mark):
    leader = leader_of(net, *MANAGERS)
    rest = [name for name in MANAGERS if name != leader]
    net[leader].crash()
    names = [f"{mark}-{name}" for name in rest]
    for name, config in zip(rest, names, strict=True):
        assert await asyncio.to_thread(first_write, net[name], config) < 10.0
    await asyncio.to_thread(net[leader].start)
    await until(lambda: is_whole(net), "it is back")
    assert set(names) <= set(configs_of(net[leader]))
    await until(lambda: copies(net, mark) == each_once(REPLICAS), "each task once")


async def test_daemon_stopped_for_an_upgrade_moves_nothing(net, mark):
    before = placed(net)
    running = copies(net, mark, "worker1")
    await asyncio.to_thread(net["worker1"].stop)
    await stays(lambda: placed(net) == before and copies(net, mark, "worker1") == running, 20.0)
    await asyncio.to_thread(net["worker1"].start)
    await until(lambda: is_whole(net), "it is back")
    await stays(lambda: placed(net) == before, CALM_S)
    assert copies(net, mark) == each_once(REPLICAS)


async def test_daemon_killed_alone_is_disconnected_and_adopts_its_tasks_in_time(net, mark):
    before, pids = placed(net), set(net["worker2"].pids())
    worker, running = node_id(net["worker2"]), copies(net, mark, "worker2")
    since_s = time.time()
    await asyncio.to_thread(net["worker2"].kill)
    await until(lambda: state_of(net["manager1"], worker) != "ready", "it is missed", 2.0)
    await asyncio.to_thread(net["worker2"].start)
    if not await asyncio.to_thread(was_given_up, net["manager1"], "worker2", since_s):
        await stays(lambda: placed(net) == before, CALM_S)
        assert copies(net, mark, "worker2") == running
        assert len(pids & set(net["worker2"].pids())) >= 2 * len(running)  # shims and tasks
    await until(lambda: copies(net, mark) == each_once(REPLICAS), "each task once")


async def test_worker_that_shuts_down_in_order_has_its_tasks_moved_at_once(net, mark):
    assert copies(net, mark, "worker1")
    rest = [name for name in NAMES if name != "worker1"]
    await asyncio.to_thread(net["worker1"].shutdown)
    await until(lambda: copies(net, mark, *rest) == each_once(REPLICAS), "replacements", 5.0)
    await asyncio.to_thread(net["worker1"].start)
    await until(lambda: is_whole(net), "it is back")
    await stays(lambda: copies(net, mark) == each_once(REPLICAS), CALM_S)


async def test_nodes_that_were_all_off_are_the_same_nodes(net):
    before = {name: node_id(host) for name, host in net.hosts.items()}
    for host in net.hosts.values():
        host.crash()
    for name in NAMES:
        await asyncio.to_thread(net[name].start)
    await until(lambda: is_whole(net), "five nodes")
    assert {name: node_id(host) for name, host in net.hosts.items()} == before


@pytest.mark.compose
def test_page_with_compose_is_true_word_for_word(net):
    """The last one: it ends with `down`."""
    commands = commands_of("With compose")
    said = {command: typed(command, net.environment()) for command in commands}

    def of(end: str) -> str:
        return next(said[command] for command in commands if command.endswith(end))

    assert "Built swarmlet:test" in said["scripts/build-image"]
    assert nodes_in(of("exec manager1 swarmlet node ls")) == set(NAMES)
    assert "web.10" in of("swarmlet service ps web")
    assert nodes_in(of(" ps")) == set(NAMES)
    assert of(" ps").count("Up") == len(NAMES)
    assert not net.compose("ps", "-q").stdout

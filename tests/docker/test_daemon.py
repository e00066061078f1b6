"""The whole daemon over a Docker Engine that is stopped, killed and started in every order: one
running container a slot, never two, and none left behind."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from swarmlet.runtime.docker.create import ENGINE_LABEL
from tests.daemon.harness import (
    ApiError,
    Client,
    Daemon,
    running,
    running_daemon,
    service,
    wait_for,
    wait_running,
)
from tests.docker.engine import IMAGE, VARIABLE, DockerEngine, missing, running_engine

pytestmark = pytest.mark.skipif(
    VARIABLE not in os.environ or bool(missing()),
    reason=f"needs Docker Engines of its own: {missing() or f'{VARIABLE} is not set'}",
)

WATCH_PERIOD_S = 0.05
REPLICAS = 3


@pytest.fixture(scope="module")
def one_engine() -> Iterator[DockerEngine]:
    """An engine that these tests alone may kill."""
    with running_engine() as engine:
        yield engine


@pytest.fixture
def engine(one_engine: DockerEngine) -> Iterator[DockerEngine]:
    """It runs at the beginning, and has no container of a swarm at the end."""
    ensure_started(one_engine)
    yield one_engine
    ensure_started(one_engine)
    left = containers(one_engine)
    for container in left:
        one_engine.call("DELETE", f"/containers/{container['Id']}?force=1")
    assert [container["Names"] for container in left] == []


@pytest.fixture
def swarm(engine: DockerEngine) -> Iterator[Daemon]:
    """A daemon in a swarm, with a service of three; watched for tasks that run twice."""
    with running_daemon("--docker-host", engine.host) as daemon, watched(engine):
        client = daemon.init()
        client.post("/services/create", web(REPLICAS))
        settled(engine, client)
        try:
            yield daemon
        finally:
            ensure_started(engine)


def ensure_started(engine: DockerEngine) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        engine.call("GET", "/_ping")
        return
    engine.start()


def web(replicas: int, name: str = "web") -> dict:
    spec = service(name, "/bin/sleep", "100000", replicas=replicas)
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = IMAGE
    return spec


def containers(engine: DockerEngine) -> list[dict]:
    """Those of swarmlets, ended ones too."""
    return [one for one in engine.containers() if ENGINE_LABEL in one["Labels"]]


def running_slots(engine: DockerEngine) -> Counter[str]:
    """How many containers of each slot run now."""
    names = [one["Names"][0] for one in containers(engine) if one["State"] == "running"]
    return Counter(re.sub(r"\.[a-z0-9]+$", "", name) for name in names)


def settled(engine: DockerEngine, client: Client, replicas: int = REPLICAS) -> set[str]:
    """Wait until one container a slot runs, and the API says the same; their ids."""
    wanted = {f"/web.{slot + 1}": 1 for slot in range(replicas)}
    wait_for(
        lambda: (
            wait_running(client, "web", replicas, limit_s=40)
            and running_slots(engine) == wanted
            and known_to(client) == running_ids(engine)
        ),
        what=f"exactly one container for each of {replicas} slots",
    )
    return running_ids(engine)


def running_ids(engine: DockerEngine) -> set[str]:
    return {one["Id"] for one in containers(engine) if one["State"] == "running"}


def known_to(client: Client) -> set[str]:
    """The containers that run as the API has it."""
    tasks = running(client, "web")
    return {task["Status"]["ContainerStatus"]["ContainerID"] for task in tasks}


@contextlib.contextmanager
def watched(engine: DockerEngine) -> Iterator[None]:
    """Look all the time; fails where ever two containers of a slot ran at once."""
    doubles: list[Counter[str]] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(WATCH_PERIOD_S):
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # it is away
                slots = running_slots(engine)
                if any(count > 1 for count in slots.values()):
                    doubles.append(slots)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
    assert doubles == []


def remove_service(engine: DockerEngine, client: Client) -> None:
    client.delete("/services/web")
    wait_for(lambda: not containers(engine), what="every container to be gone", limit_s=30)


def node_state(client: Client) -> tuple[str, str]:
    status = client.get("/nodes")[0]["Status"]
    return status["State"], status.get("Message", "")


def update(client: Client, replicas: int) -> None:
    found = client.get("/services/web")
    client.post(f"/services/web/update?version={found['Version']['Index']}", web(replicas))


def test_service_scales_and_heals_and_leaves_nothing(engine: DockerEngine, swarm: Daemon):
    client = swarm.client()
    update(client, 6)
    settled(engine, client, 6)
    update(client, 2)
    settled(engine, client, 2)
    victim, other = sorted(settled(engine, client, 2))
    engine.call("POST", f"/containers/{victim}/kill")
    wait_for(lambda: victim not in settled(engine, client, 2), what="a replacement")
    engine.call("DELETE", f"/containers/{other}?force=1")
    wait_for(lambda: other not in settled(engine, client, 2), what="another replacement")
    remove_service(engine, client)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_engine_that_restarts_takes_the_node_with_it_and_heals(
    engine: DockerEngine, swarm: Daemon, end: str
):
    client = swarm.client()
    getattr(engine, end)()
    wait_for(lambda: node_state(client)[0] == "disconnected", what="the node to be disconnected")
    assert engine.host in node_state(client)[1]
    assert client.get("/info")["Swarm"]["LocalNodeState"] == "active"
    engine.start()
    wait_for(lambda: node_state(client) == ("ready", ""), what="the node to be ready")
    time.sleep(1)
    settled(engine, client)
    remove_service(engine, client)


Step = Callable[[DockerEngine, Daemon], object]
ORDERS: dict[str, list[Step]] = {
    "daemon alone": [lambda e, d: d.stop(), lambda e, d: d.start()],
    "daemon killed": [lambda e, d: d.kill(), lambda e, d: d.start()],
    "both down, engine back first": [
        lambda e, d: d.stop(),
        lambda e, d: e.stop(),
        lambda e, d: e.start(),
        lambda e, d: d.start(),
    ],
    "both killed, daemon back first": [
        lambda e, d: e.kill(),
        lambda e, d: d.kill(),
        lambda e, d: d.start(),
        lambda e, d: time.sleep(2),
        lambda e, d: e.start(),
    ],
    "both killed, engine back first": [
        lambda e, d: d.kill(),
        lambda e, d: e.kill(),
        lambda e, d: e.start(),
        lambda e, d: d.start(),
    ],
    "engine down around a restart of the daemon": [
        lambda e, d: e.stop(),
        lambda e, d: d.stop(),
        lambda e, d: d.start(),
        lambda e, d: e.start(),
    ],
    "engine restarted while the daemon is down": [
        lambda e, d: e.kill(),
        lambda e, d: d.stop(),
        lambda e, d: e.start(),
        lambda e, d: d.start(),
    ],
}


@pytest.mark.parametrize("order", ORDERS)
def test_restarts_in_any_order_leave_one_container_a_slot(
    engine: DockerEngine, swarm: Daemon, order: str
):
    before = settled(engine, swarm.client())
    for step in ORDERS[order]:
        step(engine, swarm)
    client = swarm.client()
    wait_for(lambda: is_ready(client), what="the node to be ready", limit_s=40)
    time.sleep(1)
    after = settled(engine, client)
    if "daemon" in order.split()[0]:  # then the engine went on, and so did its containers
        assert after == before
    remove_service(engine, client)


def is_ready(client: Client) -> bool:
    try:
        return node_state(client) == ("ready", "")
    except ApiError as error:
        if error.status != 503:  # no leader yet
            raise
        return False


def test_service_removed_while_the_engine_is_down_leaves_nothing(
    engine: DockerEngine, swarm: Daemon
):
    client = swarm.client()
    engine.kill()
    wait_for(lambda: node_state(client)[0] == "disconnected", what="the node to be disconnected")
    client.delete("/services/web")
    assert client.get("/services") == []
    engine.start()
    wait_for(lambda: not containers(engine), what="every container to be gone", limit_s=40)
    wait_for(lambda: client.get("/tasks") == [], what="every task to be gone")


def test_service_removed_while_both_are_down_in_turn_leaves_nothing(
    engine: DockerEngine, swarm: Daemon
):
    engine.stop()
    swarm.client().delete("/services/web")
    swarm.kill()
    swarm.start()
    engine.start()
    wait_for(lambda: not containers(engine), what="every container to be gone", limit_s=40)


def test_scale_while_the_engine_is_down_is_done_when_it_is_back(
    engine: DockerEngine, swarm: Daemon
):
    client = swarm.client()
    engine.kill()
    update(client, 5)
    time.sleep(1)
    engine.start()
    wait_for(lambda: is_ready(client), what="the node to be ready")
    settled(engine, client, 5)
    remove_service(engine, client)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_leave_while_the_engine_is_down_cleans_up_when_it_is_back(
    engine: DockerEngine, swarm: Daemon, is_restarted: bool
):
    client = swarm.client()
    engine.kill()
    wait_for(lambda: node_state(client)[0] == "disconnected", what="the node to be disconnected")
    began_s = time.monotonic()
    client.post("/swarm/leave?force=1")
    assert time.monotonic() - began_s < 20
    assert "tasks.left_behind" in swarm.log()
    if is_restarted:
        swarm.stop()
        swarm.start()
    engine.start()
    wait_for(lambda: not containers(engine), what="every container to be gone", limit_s=60)


def test_leave_does_not_wait_for_an_engine_that_died_just_before(
    engine: DockerEngine, swarm: Daemon
):
    engine.kill()
    began_s = time.monotonic()
    swarm.client().post("/swarm/leave?force=1")
    assert time.monotonic() - began_s < 20
    engine.start()
    wait_for(lambda: not containers(engine), what="every container to be gone", limit_s=60)


def test_leave_removes_every_container(engine: DockerEngine, swarm: Daemon):
    swarm.client().post("/swarm/leave?force=1")
    assert containers(engine) == []
    swarm.init().post("/services/create", web(1))
    settled(engine, swarm.client(), 1)


def test_init_is_refused_where_docker_was_asked_for_and_no_engine_answers():
    nowhere = "unix:///nowhere/docker.sock"
    with running_daemon("--runtime", "docker", "--docker-host", nowhere) as daemon:
        assert daemon.client().get("/info")["DefaultRuntime"] == "docker"
        with pytest.raises(ApiError, match=f"docker runtime was asked for.*{nowhere}") as refused:
            daemon.init()
        assert (refused.value.status, daemon.client().get("/info")["Swarm"]["LocalNodeState"]) == (
            503,
            "inactive",
        )


def test_auto_chooses_again_at_init(engine: DockerEngine):
    engine.kill()
    with running_daemon("--docker-host", engine.host) as daemon:
        assert daemon.client().get("/info")["DefaultRuntime"] == "process"
        engine.start()
        client = daemon.init()
        assert client.get("/info")["DefaultRuntime"] == "docker"
        client.post("/services/create", web(1))
        settled(engine, client, 1)


def test_chosen_runtime_is_kept_and_another_is_refused(engine: DockerEngine, swarm: Daemon):
    swarm.stop()
    swarm.options = ("--runtime", "process")
    ended = subprocess.run(swarm.command(), capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "entered its swarm with the docker runtime" in ended.stderr
    elsewhere = f"{swarm.directory}/engine.sock"
    os.symlink(engine.socket, elsewhere)
    swarm.options = ("--runtime", "docker", "--docker-host", f"unix://{elsewhere}")
    swarm.start()
    wait_for(lambda: is_ready(swarm.client()), what="the node to be ready")
    settled(engine, swarm.client())


def test_docker_host_that_names_the_daemon_itself_is_passed_over(engine: DockerEngine):
    directory = tempfile.mkdtemp(prefix="swt-", dir="/tmp")
    daemon = Daemon(directory, prefix=("env", f"DOCKER_HOST=unix://{directory}/s.sock"))
    try:
        daemon.start()
        assert "runtime.own_socket_skipped" in daemon.log()
        daemon.stop()
        daemon.prefix, daemon.options = (), ("--docker-host", f"unix://{directory}/s.sock")
        ended = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=30)
        assert (ended.returncode, "not of a Docker Engine" in ended.stderr) == (1, True)
    finally:
        daemon.stop()
        shutil.rmtree(directory, ignore_errors=True)


def test_another_swarmlet_is_no_docker_engine():
    with (
        running_daemon("--runtime", "process") as other,
        running_daemon("--docker-host", f"unix://{other.socket}") as daemon,
    ):
        assert daemon.client().get("/info")["DefaultRuntime"] == "process"
        assert "swarmlet" in daemon.log()

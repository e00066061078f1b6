"""The same five nodes in two ways, for tests that run on both, and for people.

Either way a node starts and stops (`start`, `stop`, `kill`: its daemon alone; `crash`: all of it),
is cut off and healed, and answers by `client`, `swarmlet` and `docker`; `pids` are its processes.
"""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.cluster import compose, hosts
from tests.cluster.compose import ComposeNetwork, Container, composed
from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import managers_seen_by
from tests.daemon.harness import ApiError, Client, wait_for
from tests.docker import engine

NAMES = ("manager1", "manager2", "manager3", "worker1", "worker2")
MANAGERS = NAMES[:3]
WORKERS = NAMES[3:]

Five = Network | ComposeNetwork


def missing(backend: str) -> str:
    """Why there can be no five nodes of that kind here, or ""."""
    if backend == "namespaces":
        return hosts.missing()
    return compose.missing() or engine.missing()


def mend(net: Five) -> None:
    """Whatever was done to them: all of them are there again, and see each other."""
    net.heal()
    for host in net.hosts.values():
        host.thaw()
        if not is_up(host):
            host.start()


def form(net: Network) -> None:
    """A swarm of five hosts that are in none."""
    net["manager1"].start().init()
    for name in NAMES[1:]:
        net[name].start().join(net["manager1"], "Manager" if name in MANAGERS else "Worker")
    wait_for(lambda: is_whole(net), what="five nodes", limit_s=60.0)


def is_up(host: Host | Container) -> bool:
    """Whether its daemon answers."""
    try:
        Client(host.socket, 2.0).call("GET", "/_ping")
    except (ApiError, OSError):
        return False
    return True


def is_whole(net: Five) -> bool:
    """Whether all managers see all managers reachable, one leader, and five nodes ready."""
    try:
        seen = [managers_seen_by(net[name]) for name in MANAGERS]
        states = [row["Status"]["State"] for row in net["manager1"].client().get("/nodes")]
    except (ApiError, OSError):
        return False
    return states == ["ready"] * len(NAMES) and all(
        set(one) == set(MANAGERS)
        and all(status["Reachability"] == "reachable" for status in one.values())
        and sum(status.get("Leader", False) for status in one.values()) == 1
        for one in seen
    )


@contextlib.contextmanager
def in_namespaces() -> Iterator[Network]:
    with network(*NAMES) as net:
        form(net)
        yield net


@contextlib.contextmanager
def in_containers() -> Iterator[ComposeNetwork]:
    """On an engine of their own, with the image built from this tree."""
    with own_engine() as host:
        compose.build_image(host)
        with composed(host) as net:
            wait_for(lambda: is_whole(net), what="five nodes", limit_s=60.0)
            yield net


@contextlib.contextmanager
def own_engine() -> Iterator[str]:
    """Its address. A test is skipped, with the end of the engine's log, where it does not start."""
    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(engine.running_engine()).host
        except RuntimeError as error:
            pytest.skip(str(error))
        yield host


OPENED: dict[str, Callable[[], contextlib.AbstractContextManager[Five]]] = {
    "namespaces": in_namespaces,
    "compose": in_containers,
}

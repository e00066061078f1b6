"""What an inspected container means for its task."""

import msgspec
import pytest

from swarmlet.model.service import PortConfig
from swarmlet.runtime.base import NEVER_STARTED
from swarmlet.runtime.docker.sight import (
    DESTROYED,
    Sight,
    exit_of,
    is_healthy,
    is_unhealthy,
    runtime_task,
    started,
    time_ns,
)

ZERO = "0001-01-01T00:00:00Z"
STARTED = "2026-11-22T23:00:00.5Z"


def sight(state: dict, ports: dict | None = None) -> Sight:
    said = {
        "Id": "c",
        "State": {"StartedAt": STARTED, "FinishedAt": ZERO, **state},
        "Config": {"Labels": {"com.docker.swarm.task.id": "t", "swarmlet.engine": "e"}},
        "NetworkSettings": {"Ports": ports},
    }
    return msgspec.json.decode(msgspec.json.encode(said), type=Sight)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.1234567891Z", 123_456_789),
        ("1970-01-01T01:00:00.5+01:00", 500_000_000),
        (ZERO, 0),
        ("", 0),
        ("yesterday, about twelve", 0),
        ("2026-13-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59-23:59", 0),
    ],
)
def test_time_is_read_to_the_nanosecond(text, ns):
    assert time_ns(text) == ns


def test_end_bears_code_time_and_reason():
    over = sight(
        {
            "Status": "exited",
            "ExitCode": 137,
            "OOMKilled": True,
            "FinishedAt": "1970-01-01T00:00:02Z",
        }
    )
    end = exit_of(over, now_ms=9, told_exit=None)
    assert (end.exit_code, end.at_ms, end.was_oom, end.problem) == (137, 2000, True, "")
    never = sight(
        {"Status": "created", "StartedAt": ZERO, "ExitCode": 127, "Error": "no such file"}
    )
    assert exit_of(never, now_ms=9, told_exit=None).problem == "no such file"
    untried = sight({"Status": "created", "StartedAt": ZERO})
    assert exit_of(untried, now_ms=9, told_exit=None).problem == NEVER_STARTED


@pytest.mark.parametrize(("told", "code"), [(None, 137), (0, 0), (5, 5)])
def test_container_that_is_gone_ended_as_its_event_told(told, code):
    end = exit_of(Sight(id="c", is_gone=True), now_ms=9, told_exit=told)
    assert (end.exit_code, end.at_ms, end.problem) == (code, 9, DESTROYED)


@pytest.mark.parametrize(
    ("status", "has_start", "has_exit"),
    [
        ("created", False, False),
        ("running", True, False),
        ("paused", True, False),
        ("exited", True, True),
        ("dead", True, True),
    ],
)
def test_listed_container_is_adopted_as_what_it_is(status, has_start, has_exit):
    state = {"Status": status} | ({} if has_start else {"StartedAt": ZERO})
    found = runtime_task(sight(state), 9)
    assert found.task_id == "t"
    assert (found.started is not None, found.exit is not None) == (has_start, has_exit)


@pytest.mark.parametrize(
    ("health", "healthy", "unhealthy"),
    [
        (None, True, False),
        ({"Status": "none"}, True, False),
        ({"Status": "starting"}, False, False),
        ({"Status": "healthy"}, True, False),
        ({"Status": "unhealthy"}, False, True),
    ],
)
def test_health_is_the_engines_word(health, healthy, unhealthy):
    seen = sight({"Status": "running", "Health": health})
    assert (is_healthy(seen), is_unhealthy(seen)) == (healthy, unhealthy)
    over = sight({"Status": "exited", "Health": health})
    assert not is_unhealthy(over)


@pytest.mark.parametrize(
    ("key", "port"), [("x/tcp", "9"), ("9" * 5000, "9"), ("80/tcp", "9" * 5000), ("80/tcp", "x")]
)
def test_port_that_is_none_is_not_told(key, port):
    seen = sight({"Status": "running"}, {key: [{"HostIp": "", "HostPort": port}]})
    assert started(seen, None).ports == ()


def test_each_wanted_port_is_told_once_whatever_the_families():
    ports = {
        "80/tcp": [
            {"HostIp": "::", "HostPort": "49154"},
            {"HostIp": "0.0.0.0", "HostPort": "49153"},
            {"HostIp": "0.0.0.0", "HostPort": "8080"},
        ],
        "53/udp": [{"HostIp": "::", "HostPort": "5353"}],
        "9/tcp": None,
    }
    seen = sight({"Status": "running"}, ports)
    wanted = (("", "tcp", 80, 8080), ("w", "tcp", 80, 0), ("", "udp", 53, 0), ("", "tcp", 9, 0))
    assert [
        (p.name, p.protocol, p.target_port, p.published_port) for p in started(seen, wanted).ports
    ] == [("", "tcp", 80, 8080), ("w", "tcp", 80, 49153), ("", "udp", 53, 5353)]
    assert started(seen, None).ports[0] == PortConfig(
        protocol="udp", target_port=53, published_port=5353, publish_mode="host"
    )

"""`service logs`: frames of the daemon become named lines."""

import pytest

from swarmlet.cli.errors import CommandError
from swarmlet.cli.service.logs import Frame, frames_of, since_s
from tests.cli import recorded

TASK_ID = "36jqlceqj6tjjdvh5pocvdkks"
SERVICE_ID = "yca8lu1gsnal3oef52s1xf3gu"


def frame(
    stream: int, line: str, task_id: str = TASK_ID, extra: str = "", stamp: str = ""
) -> bytes:
    details = (
        f"com.docker.swarm.node.id={recorded.NODE_ID},com.docker.swarm.service.id={SERVICE_ID},"
        f"com.docker.swarm.task.id={task_id}{extra}"
    )
    payload = f"{stamp}{details} {line}\n".encode()
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


@pytest.fixture
def swarm(daemon):
    log = recorded.service(SERVICE_ID, "api-log", {"Replicated": {"Replicas": 10}})
    daemon.script = {
        "GET /services/api-log": (200, log),
        f"GET /services/{SERVICE_ID}": (200, log),
        f"GET /nodes/{recorded.NODE_ID}": (200, recorded.NODE),
        f"GET /tasks/{TASK_ID}": (200, {"ID": TASK_ID, "Slot": 1}),
        "GET /services/api-log/logs": (200, [frame(1, "hello"), frame(2, "err")]),
    }
    return daemon


def test_lines_are_named_and_go_to_the_stream_they_came_from(swarmlet, swarm):
    result = swarmlet("service", "logs", "--tail", "3", "api-log")
    assert result.code == 0
    assert result.out == "api-log.1.36jqlceqj6tj@vm     | hello\n"
    assert result.err == "api-log.1.36jqlceqj6tj@vm     | err\n"
    asked = next(r for r in swarm.requests if r.path.endswith("/logs"))
    assert asked.query == {"details": "1", "stdout": "1", "stderr": "1", "tail": "3"}


def test_names_are_asked_for_once(swarmlet, swarm):
    swarm.script["GET /services/api-log/logs"] = (200, [frame(1, str(n)) for n in range(50)])
    result = swarmlet("service", "logs", "api-log")
    assert len(result.out.splitlines()) == 50
    assert len(swarm.requests) == 5


def test_details_and_times_and_full_ids_are_shown_when_asked_for(swarmlet, swarm):
    line = frame(1, "x y", extra=",zone=a%20b", stamp="2026-11-22T18:04:36.448493810Z ")
    swarm.script["GET /services/api-log/logs"] = (200, [line])
    result = swarmlet("service", "logs", "--details", "-t", "--no-trunc", "api-log")
    label = f"api-log.1.{TASK_ID}@vm"
    assert result.out == f"2026-11-22T18:04:36.448493810Z {label}     | zone=a b x y\n"


def test_task_that_is_gone_keeps_its_lines(swarmlet, swarm):
    line = frame(1, "last words", task_id="gone0000000000000000000000")
    swarm.script["GET /services/api-log/logs"] = (200, [line])
    result = swarmlet("service", "logs", "api-log")
    assert (result.code, result.out) == (0, "api-log.gone00000000@vm      | last words\n")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--no-task-ids"], "api-log.1@vm     | hello\n"),
        (
            ["--no-resolve"],
            f"{SERVICE_ID}.1.36jqlceqj6tj@{recorded.NODE_ID}     | hello\n",
        ),
    ],
)
def test_labels_follow_the_flags(flags, expected, swarmlet, swarm):
    assert swarmlet("service", "logs", *flags, "api-log").out == expected


def test_raw_prints_the_lines_alone(swarmlet, swarm):
    payload = b"\x01\0\0\0\0\0\0\x06hello\n"
    swarm.script["GET /services/api-log/logs"] = (200, [payload])
    assert swarmlet("service", "logs", "--raw", "api-log").out == "hello\n"
    assert "details" not in swarm.requests[-1].query


def test_terminal_of_a_task_is_passed_through_raw_and_refused_otherwise(swarmlet, swarm):
    found = swarm.script["GET /services/api-log"][1]
    found["Spec"]["TaskTemplate"]["ContainerSpec"]["TTY"] = True
    swarm.script["GET /services/api-log/logs"] = (200, [b"hello\r\n"])
    assert swarmlet("service", "logs", "--raw", "api-log").out == "hello\r\n"
    assert "--raw" in swarmlet("service", "logs", "api-log").err


def test_log_of_one_task_and_of_nothing(swarmlet, swarm):
    swarm.script[f"GET /tasks/{TASK_ID}"] = (200, {"ID": TASK_ID, "Slot": 1, "Spec": {}})
    swarm.script[f"GET /tasks/{TASK_ID}/logs"] = (200, [frame(1, "hello")])
    assert swarmlet("service", "logs", TASK_ID).out.endswith("| hello\n")
    result = swarmlet("service", "logs", "nope")
    assert (result.code, result.err.splitlines()[0]) == (
        1,
        "Error: There is no service and no task 'nope'.",
    )


def test_task_logs_are_those_of_one_task(swarmlet, swarm):
    swarm.script[f"GET /tasks/{TASK_ID}"] = (200, {"ID": TASK_ID, "Slot": 1, "Spec": {}})
    swarm.script[f"GET /tasks/{TASK_ID}/logs"] = (200, [frame(1, "hello")])
    result = swarmlet("task", "logs", "-f", "-n", "5", "--until", "1970-01-02", TASK_ID)
    assert result.out.endswith("| hello\n")
    asked = next(r for r in swarm.requests if r.path.endswith("/logs"))
    assert {key: asked.query[key] for key in ("follow", "tail", "until")} == {
        "follow": "1",
        "tail": "5",
        "until": "86400.000000000",
    }
    missing = swarmlet("task", "logs", "nope")
    assert missing.code == 1


def test_bad_until_names_its_own_flag(swarmlet, swarm):
    result = swarmlet("service", "logs", "--until", "yesterday", "api-log")
    assert result.code == 2
    assert "--until" in result.err


def test_frames_are_found_wherever_the_stream_is_cut():
    whole = frame(1, "one") + frame(2, "two")
    expected = list(frames_of(iter([whole])))
    assert [found.stream for found in expected] == [1, 2]
    for cut in range(len(whole)):
        assert list(frames_of(iter([whole[:cut], whole[cut:]]))) == expected


@pytest.mark.parametrize("pieces", [[b"\x01\0\0"], [b"HTTP/1.1 nonsense"], [frame(1, "x")[:-1]]])
def test_damaged_stream_is_said_so(pieces):
    with pytest.raises(CommandError):
        list(frames_of(iter(pieces)))


def test_error_of_the_daemon_within_the_stream_ends_it(swarmlet, swarm):
    payload = b"\x03\0\0\0\0\0\0\x04gone"
    swarm.script["GET /services/api-log/logs"] = (200, [payload])
    result = swarmlet("service", "logs", "api-log")
    assert (result.code, result.err) == (1, "Error: gone\n")


def test_empty_frame_is_an_empty_line_of_nobody():
    assert list(frames_of(iter([b"\x01" + bytes(7)]))) == [Frame(1, b"")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", "400.000000000"),
        ("1700000000.5", "1700000000.5"),
        ("1970-01-01T00:01:00.5Z", "60.500000000"),
        ("1970-01-02", "86400.000000000"),
    ],
)
def test_since_takes_durations_and_times(text, expected):
    assert since_s(text, 1000.0) == expected


def test_since_refuses_what_is_neither(swarmlet, swarm):
    result = swarmlet("service", "logs", "--since", "yesterday", "api-log")
    assert result.code == 2
    assert "--since" in result.err

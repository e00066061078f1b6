"""Host-mode ports: tried, found, told."""

import random
import socket

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import RuntimeProblemError, TemporaryProblemError
from swarmlet.runtime.process.ports import FREE_MAX, FREE_MIN, Port, choose_ports
from tests.runtime.process_world import assigned, begin, line_of, output, run, shell

SERVER = """
import os, socket, time
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
print("up", flush=True)
connection, _ = server.accept()
connection.sendall(os.environ["PORT_80"].encode())
connection.close()
time.sleep(100)
"""


def choose(*ports, taken=None, seed=1):
    return choose_ports(ports, taken or {}, random.Random(seed).randrange)


def test_free_ports_differ_and_lie_outside_the_kernels_own_range():
    chosen = choose(*[Port("tcp", n, 0) for n in range(50)])
    numbers = [port.published for port in chosen]
    assert len(set(numbers)) == 50
    assert all(FREE_MIN <= number <= FREE_MAX for number in numbers)


def test_free_port_is_one_nobody_has():
    (first,) = choose(Port("tcp", 80, 0))
    (again,) = choose(Port("tcp", 80, 0), taken={("tcp", first.published): "other"})
    assert again.published != first.published
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", first.published))
        busy.listen()
        (third,) = choose(Port("tcp", 80, 0))
        assert third.published != first.published


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_given_port_that_is_in_use_is_refused_with_its_holder(family):
    with socket.socket(family) as busy:
        busy.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        busy.listen()
        number = busy.getsockname()[1]
        with pytest.raises(RuntimeProblemError) as caught:
            choose(Port("tcp", 80, number))
        assert f"Port {number}/tcp is already in use on this node by" in caught.value.message
        assert "(pid " in caught.value.message
        assert not isinstance(caught.value, TemporaryProblemError)
        assert choose(Port("udp", 80, number))[0].published == number


def test_given_udp_port_that_is_in_use_is_refused():
    with socket.socket(type=socket.SOCK_DGRAM) as busy:
        busy.bind(("127.0.0.1", 0))
        with pytest.raises(RuntimeProblemError, match="already in use"):
            choose(Port("udp", 80, busy.getsockname()[1]))


def test_port_of_another_task_is_tried_again_later():
    with pytest.raises(TemporaryProblemError, match="by task abc"):
        choose(Port("tcp", 80, 8080), taken={("tcp", 8080): "abc"})


async def test_task_finds_its_port_and_the_status_tells_it(runtime):
    task = assigned("t", "/usr/bin/python3", "-c", SERVER, ports=(("tcp", 80, 0),))
    started = await begin(runtime, task)
    (port,) = started.ports
    assert (port.protocol, port.target_port, port.publish_mode) == ("tcp", 80, "host")
    assert await line_of(runtime, "t") == "up"
    with socket.create_connection(("127.0.0.1", port.published_port), timeout=5) as client:
        assert client.recv(100).decode() == str(port.published_port)


async def test_port_is_free_again_once_its_task_ended(runtime):
    first = await begin(runtime, assigned("a", "sleep", "100", ports=(("tcp", 80, 0),)))
    number = first.ports[0].published_port
    second = shell("b", "echo $PORT", ports=(("tcp", 80, number),))
    await runtime.prepare(second)
    with pytest.raises(TemporaryProblemError, match="by task a"):
        await runtime.start(second)
    await runtime.stop(TaskID("a"), "SIGKILL", 5)
    assert (await run(runtime, second)).exit_code == 0
    assert await output(runtime, "b") == f"{number}\n"

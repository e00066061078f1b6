"""The door: what is made of a program's last words and of an answer that is none."""

import os
import socket
import threading
from contextlib import closing

import pytest

from swarmlet.doctor.world import Ran, ask, bind_problem, find, nearest_existing, peer_pid, run


@pytest.mark.parametrize(
    ("code", "err", "out", "problem"),
    [
        (0, "a warning", "", ""),
        (1, "", "", "exit code 1"),
        (2, "Error: Unknown device type.\nCommand failed -:2\n", "", "Unknown device type"),
        (2, "Command failed -:2\n", "", "exit code 2"),
        (1, 'time="x" level=error msg="no \\"cgroups\\" here"\n', "", 'no \\"cgroups\\" here'),
        (1, "", "said on the wrong stream", "said on the wrong stream"),
    ],
)
def test_problem_is_the_first_reason_a_program_gives(code, err, out, problem):
    assert Ran(code=code, err=err, out=out).problem == problem


def test_program_that_does_not_end_is_ended_and_named():
    ran = run("/bin/sleep", "30", timeout_s=0.2)
    assert ran.code < 0
    assert "/bin/sleep did not end" in ran.problem


def test_program_that_is_not_there_is_a_problem_and_not_found():
    assert find("no-such-program") == ""
    assert "No such file" in run("/no/such/program").problem


def answering(raw: bytes, path: str) -> socket.socket:
    """A socket whose first client gets `raw`, whatever it asks."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def answer() -> None:
        client = server.accept()[0]
        with closing(client):
            client.recv(4096)
            client.sendall(raw)

    threading.Thread(target=answer, daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("raw", "status", "problem"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"A": {}}', 200, ""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", 404, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 0, "HTTP and JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", 0, "HTTP and JSON"),
        (b"SSH-2.0-OpenSSH_9\r\n", 0, "HTTP and JSON"),
    ],
)
def test_answer_that_is_no_http_or_json_is_a_problem(raw, status, problem, tmp_path):
    path = str(tmp_path / "s.sock")
    with closing(answering(raw, path)):
        answer = ask(f"unix://{path}", "/x")
    assert answer.status == status
    assert problem in answer.problem
    assert answer.object("A") == {}


@pytest.mark.parametrize(
    "host", ["unix:///no/such.sock", "tcp://127.0.0.1:1", "unix://" + "x" * 200]
)
def test_address_where_nobody_answers_is_a_problem(host):
    answer = ask(host, "/version")
    assert (answer.status, answer.is_object) == (0, False)
    assert answer.problem


def test_listener_of_a_socket_is_known(tmp_path):
    path = str(tmp_path / "s.sock")
    assert peer_pid(path) == 0
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(path)
        server.listen()
        assert peer_pid(f"unix://{path}") == os.getpid()


@pytest.mark.parametrize(
    ("kind", "type_"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)]
)
def test_port_is_free_until_it_is_taken(kind, type_):
    with closing(socket.socket(socket.AF_INET, type_)) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        assert bind_problem(kind, "127.0.0.1", port) != 0
    assert bind_problem(kind, "127.0.0.1", port) == 0


def test_nearest_folder_of_a_path_is_one_that_exists(tmp_path):
    assert nearest_existing(str(tmp_path / "a/b")) == str(tmp_path)
    assert nearest_existing(str(tmp_path)) == str(tmp_path)
    assert nearest_existing("/no/such/place") == "/"

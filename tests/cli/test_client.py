"""HTTP over a unix socket: every way it can go wrong is a sentence with a remedy."""

import os
import socket
import threading

import pytest

from swarmlet.cli import client as client_module
from swarmlet.cli.client import Client, quote
from swarmlet.cli.errors import ApiError, CommandError, TimedOutError, UnreachableError


@pytest.fixture
def raw_server(tmp_path):
    """Answers every connection with the given bytes, whatever was asked."""
    path = str(tmp_path / "raw.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    replies: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(replies[0])

    thread = threading.Thread(target=serve)
    thread.start()
    yield path, replies
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (http(b"[1]", "Content-Length: 3"), [1]),
        (http(b"[1]", "content-length:3", "Connection: close"), [1]),
        (
            http(b"2\r\n[1\r\n1;x=y\r\n]\r\n0\r\nTrailer: 1\r\n\r\n", "Transfer-Encoding: chunked"),
            [1],
        ),
        (http(b"[1]"), [1]),
        (http(b"", status="204 No Content"), None),
        (http(b"", "Content-Length: 0"), None),
    ],
)
def test_body_is_read_however_it_is_delimited(raw_server, reply, expected):
    path, replies = raw_server
    replies.append(reply)
    client = Client(path)
    assert client.get("/x") == expected
    client.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nHalf",
        http(b"[1", "Content-Length: 3"),
        http(b"x", "Content-Length: x"),
        http(b"x", "Content-Length: -1"),
        http(b"zz\r\n", "Transfer-Encoding: chunked"),
        http(b"nope", "Content-Length: 4"),
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000,
    ],
)
def test_what_is_no_http_is_said_so(raw_server, reply):
    path, replies = raw_server
    replies.append(reply)
    with pytest.raises(CommandError) as caught:
        Client(path).get("/x")
    assert path in caught.value.message
    assert caught.value.remedy


def test_kept_connection_that_closed_is_opened_again(raw_server):
    path, replies = raw_server
    replies.append(http(b"[1]", "Content-Length: 3"))
    client = Client(path)
    assert client.get("/x") == [1]
    assert client.get("/x") == [1]
    client.close()


def test_silence_times_out_and_says_that_the_outcome_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(client_module, "REPLY_TIMEOUT_S", 0.05)
    path = str(tmp_path / "mute.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(TimedOutError) as caught:
            Client(path).get("/x")
    assert "not known" in caught.value.message
    assert caught.value.exit_code == 5


def test_no_socket_and_a_dead_one_are_both_no_daemon(tmp_path):
    path = str(tmp_path / "dead.sock")
    assert Client(path).ping() is False
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    with pytest.raises(UnreachableError) as caught:
        Client(path).get("/x")
    assert f"No swarmlet daemon answers at {path}" in caught.value.message
    assert "`swarmlet init`" in caught.value.remedy


@pytest.mark.skipif(os.getuid() == 0, reason="root may open every socket")
def test_forbidden_socket_is_said_so(tmp_path):
    path = str(tmp_path / "no.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0)
        with pytest.raises(UnreachableError, match="You may not talk"):
            Client(path).get("/x")


def test_api_error_keeps_the_daemons_words_and_remedy(daemon):
    body = {
        "message": 'rpc error: code = NotFound desc = gone, use "docker swarm init"',
        "remedy": "Do this.",
    }
    daemon.script = {"GET /x": (503, body)}
    client = Client(daemon.socket_path)
    with pytest.raises(ApiError) as caught:
        client.get("/x")
    assert caught.value.message == 'gone, use "swarmlet init"'
    assert (caught.value.remedy, caught.value.status) == ("Do this.", 503)
    client.close()


def test_changes_are_never_sent_on_a_connection_that_may_be_dead(daemon):
    daemon.script = {"GET /x": (200, []), "POST /y": (201, {"ID": "1"})}
    client = Client(daemon.socket_path)
    client.get("/x")
    client.post("/y", {"a": 1})
    client.close()
    assert daemon.connections == 2


def test_stream_yields_pieces_and_refuses_an_error(daemon):
    daemon.script = {"GET /log": (200, [b"one", b"two"])}
    client = Client(daemon.socket_path)
    assert list(client.stream("/log")) == [b"one", b"two"]
    with pytest.raises(ApiError):
        list(client.stream("/nope"))
    client.close()


def test_quote_escapes_what_is_no_plain_letter():
    assert quote("a/b ä&=~") == "a%2Fb%20%C3%A4%26%3D~"

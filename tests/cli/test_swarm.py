"""`init`, `leave`, `swarm update`, `daemon stop`, and the daemon that init starts."""

import io
import os
import signal
import sys

import pytest

from swarmlet.cli import background
from swarmlet.cli.background import ensure_daemon
from swarmlet.cli.client import Client
from swarmlet.cli.errors import CommandError
from tests.cli import recorded
from tests.cli.recorded import TOKEN

INIT_TEXT = f"""\
Swarm initialized: current node ({recorded.NODE_ID}) is now a manager.

To add a worker to this swarm, run the following command:

    swarmlet join --token {TOKEN} 127.0.0.1:2377

To add a manager to this swarm, run 'swarmlet join-token manager' and follow the instructions.

"""
# docker 28's body
INIT_BODY = {
    "ListenAddr": "0.0.0.0:2377",
    "AdvertiseAddr": "127.0.0.1",
    "DataPathAddr": "",
    "DataPathPort": 0,
    "ForceNewCluster": False,
    "Spec": {
        "Labels": None,
        "Orchestration": {},
        "Raft": {"ElectionTick": 0, "HeartbeatTick": 0},
        "Dispatcher": {},
        "CAConfig": {},
        "TaskDefaults": {},
        "EncryptionConfig": {"AutoLockManagers": False},
    },
    "AutoLockManagers": False,
    "Availability": "",
    "DefaultAddrPool": [],
    "SubnetSize": 24,
}


@pytest.mark.parametrize("command", [["init"], ["swarm", "init"]])
def test_init_prints_dockers_text_and_sends_dockers_body(command, swarmlet, swarm):
    result = swarmlet(*command, "--advertise-addr", "127.0.0.1")
    assert (result.code, result.out, result.err) == (0, INIT_TEXT, "")
    assert swarm.posted()[0].body == INIT_BODY


def test_init_sends_the_settings_that_were_given(swarmlet, swarm):
    swarmlet("init", "--cert-expiry", "48h", "--task-history-limit", "3", "--availability", "drain")
    body = swarm.posted()[0].body
    assert body["Spec"]["CAConfig"] == {"NodeCertExpiry": 48 * 3600 * 10**9}
    assert body["Spec"]["Orchestration"] == {"TaskHistoryRetentionLimit": 3}
    assert body["Availability"] == "drain"


def test_init_notes_that_a_running_daemon_keeps_its_own_options(swarmlet, swarm, tmp_path):
    result = swarmlet("init", "--data-dir", str(tmp_path))
    assert result.code == 0
    assert "--data-dir, --runtime and --docker-host are its own" in result.err


def test_second_init_is_refused_in_the_daemons_words(swarmlet, swarm):
    text = 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm.'
    swarm.script["POST /swarm/init"] = (503, {"message": text})
    result = swarmlet("init")
    assert result.code == 1
    assert 'Use "swarmlet leave" to leave this swarm.' in result.err


def test_leave_passes_force_on(swarmlet, swarm):
    assert swarmlet("leave", "--force").out == "Node left the swarm.\n"
    assert swarm.posted()[0].query == {"force": "1"}
    swarmlet("swarm", "leave")
    assert swarm.posted()[1].query == {}


def test_swarm_update_sends_the_whole_spec_with_its_version(swarmlet, swarm):
    assert swarmlet("swarm", "update", "--task-history-limit", "9").out == "Swarm updated.\n"
    posted = swarm.posted()[0]
    assert posted.query["version"] == "11"
    assert posted.body["Orchestration"] == {"TaskHistoryRetentionLimit": 9}
    assert posted.body["Name"] == "default"


EXTERNAL = "protocol=cfssl,url=https://ca:8888/api/v1/cfssl/sign"


@pytest.mark.parametrize("command", [["init"], ["swarm", "update"]])
def test_external_ca_is_sent_as_docker_sends_it(command, swarmlet, swarm):
    assert swarmlet(*command, "--external-ca", f"{EXTERNAL},profile=node").code == 0
    body = swarm.posted()[0].body
    sent = body.get("Spec", body)["CAConfig"]["ExternalCAs"]
    of_root = {} if command == ["init"] else {"CACert": recorded.TLS_INFO["TrustRoot"]}
    named = {"Protocol": "cfssl", "URL": "https://ca:8888/api/v1/cfssl/sign"}
    assert sent == [{**of_root, **named, "Options": {"profile": "node"}}]


def test_certificate_of_an_external_ca_is_read_here(swarmlet, swarm, tmp_path):
    (tmp_path / "ca.crt").write_text(recorded.TLS_INFO["TrustRoot"] + "x")
    swarmlet("swarm", "update", "--external-ca", f"{EXTERNAL},cacert={tmp_path}/ca.crt")
    sent = swarm.posted()[0].body["CAConfig"]["ExternalCAs"][0]
    assert sent["CACert"] == recorded.TLS_INFO["TrustRoot"] + "x"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("url=https://x", "needs a protocol= parameter"),
        ("protocol=cfssl", "needs a url= parameter"),
        ("protocol=acme,url=https://x", "unrecognized external CA protocol 'acme'"),
        ("protocol", "must be a key=value pair"),
        ("protocol=cfssl,url=https://x,cacert=/nowhere", "/nowhere: No such file"),
        ("protocol=cfssl,url=https://x,cacert=/proc/version", "/proc/version holds no PEM"),
    ],
)
def test_external_ca_that_makes_no_sense_is_wrong_usage(value, sentence, swarmlet, swarm):
    result = swarmlet("swarm", "update", "--external-ca", value)
    assert (result.code, swarm.requests) == (2, [])
    assert "--external-ca" in result.err
    assert sentence in result.err


def test_init_announces_where_it_is_told_to(swarmlet, swarm):
    swarmlet("init", "--announce")
    assert swarm.posted()[0].body == {**INIT_BODY, "AdvertiseAddr": "", "Announce": True}


def test_swarm_update_without_flags_prints_its_help_and_asks_nothing(swarmlet, swarm):
    result = swarmlet("swarm", "update")
    assert (result.code, swarm.requests) == (0, [])
    assert result.out.startswith("Usage: swarmlet swarm update")


def test_daemon_stop_says_that_the_host_stops_where_it_is_told_so(swarmlet, swarm):
    swarm.script["POST /swarmlet/v1/daemon/stop"] = (200, None)
    swarm.script["GET /_ping"] = [(503, None)]
    result = swarmlet("daemon", "stop", "--host-stopping")
    assert result.out == "Daemon stopped. Tasks it still had are moved to other nodes.\n"
    assert [r.query for r in swarm.posted()] == [{"hostStopping": "1"}]


def test_daemon_stop_returns_when_the_daemon_is_gone(swarmlet, swarm):
    swarm.script["POST /swarmlet/v1/daemon/stop"] = (200, None)
    swarm.script["GET /_ping"] = [(200, None), (200, None), (503, None)]
    result = swarmlet("daemon", "stop")
    assert (result.code, result.out) == (0, "Daemon stopped. Tasks it still had run on.\n")
    assert len([r for r in swarm.requests if r.path == "/_ping"]) == 3


def test_daemon_stop_looks_again_where_the_daemon_ends_amid_an_answer(swarmlet, swarm):
    answers = iter([(200, None), ConnectionResetError(), (503, None)])

    def answer(_request):
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    swarm.script["POST /swarmlet/v1/daemon/stop"] = (200, None)
    swarm.script["GET /_ping"] = answer
    result = swarmlet("daemon", "stop")
    assert (result.code, result.err) == (0, "")
    assert list(answers) == []


# The daemon that init starts --------------------------------------------------------------------
STANDIN = """
import socket, sys, time
path = sys.argv[sys.argv.index("--host") + 1].removeprefix("unix://")
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    connection.close()
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program that stands in for `python -m swarmlet.daemon`."""

    def write(text: str) -> None:
        script = tmp_path / "interpreter"
        script.write_text(f"#!{sys.executable}\n{text}")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return write


def test_init_starts_a_daemon_where_none_answers_and_says_so(program, tmp_path, capsys):
    program(STANDIN)
    client = Client(str(tmp_path / "new.sock"))
    ensure_daemon(client, data_dir=str(tmp_path / "data"), runtime="process")
    said = capsys.readouterr().err
    pid = int(said.split("process ")[1].split(")")[0])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert f"it logs to {tmp_path}/data/daemon.log" in said
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "daemon.log").stat().st_mode & 0o777 == 0o600


def test_daemon_that_dies_at_once_is_quoted(program, tmp_path):
    program("import sys; sys.exit('Error: the port is taken\\n  Try: another one')")
    with pytest.raises(CommandError) as caught:
        ensure_daemon(Client(str(tmp_path / "s")), data_dir=str(tmp_path / "data"), runtime="")
    assert (caught.value.message, caught.value.remedy) == ("the port is taken", "another one")


def test_daemon_that_dies_without_a_word_points_to_its_log(program, tmp_path):
    program("import sys; print('trace'); sys.exit(7)")
    with pytest.raises(CommandError) as caught:
        ensure_daemon(Client(str(tmp_path / "s")), data_dir=str(tmp_path / "data"), runtime="")
    assert caught.value.message == "The daemon ended at once with code 7:\ntrace"
    assert "daemon.log" in caught.value.remedy


def test_daemon_that_never_answers_is_a_timeout(program, tmp_path, monkeypatch):
    program("import time; time.sleep(60)")
    monkeypatch.setattr(background, "START_TIMEOUT_S", 0.1)
    with pytest.raises(CommandError, match="does not answer") as caught:
        ensure_daemon(Client(str(tmp_path / "s")), data_dir=str(tmp_path / "data"), runtime="")
    pid = int(caught.value.message.split("process ")[1].split(")")[0])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert caught.value.exit_code == 5


def test_interrupted_start_leaves_no_daemon(program, tmp_path, monkeypatch):
    program("import time; time.sleep(60)")
    started: list[int] = []
    start = background._start

    def remembered(arguments, log):
        daemon, begin = start(arguments, log)
        started.append(daemon.pid)
        return daemon, begin

    def interrupted(_duration_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(background, "_start", remembered)
    monkeypatch.setattr(background, "sleep_s", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_daemon(Client(str(tmp_path / "s")), data_dir=str(tmp_path / "data"), runtime="")
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


# Secrets and configs ----------------------------------------------------------------------------
def test_secret_create_sends_the_bytes_of_stdin(swarmlet, daemon, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"s3cret")))
    daemon.script = {"POST /secrets/create": (201, {"ID": "o3jacl8k17iohbrmvdt8bepi7"})}
    result = swarmlet("secret", "create", "-l", "x=y", "api-sec", "-")
    assert (result.code, result.out) == (0, "o3jacl8k17iohbrmvdt8bepi7\n")
    body = {"Name": "api-sec", "Labels": {"x": "y"}, "Data": "czNjcmV0"}
    assert daemon.posted()[0].body == body


def test_config_create_takes_a_template_driver(swarmlet, daemon, tmp_path):
    (tmp_path / "f").write_text("vm\n")
    daemon.script = {"POST /configs/create": (201, {"ID": "1"})}
    swarmlet("config", "create", "--template-driver", "golang", "c", str(tmp_path / "f"))
    assert daemon.posted()[0].body == {
        "Name": "c",
        "Labels": {},
        "Data": "dm0K",
        "Templating": {"Name": "golang"},
    }


@pytest.mark.parametrize("size_b", [0, 512_000])
def test_secret_of_a_wrong_size_is_refused_before_it_is_sent(size_b, swarmlet, daemon, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * size_b)
    result = swarmlet("secret", "create", "s", str(tmp_path / "f"))
    assert result.code == 1
    assert "larger than 0 and less than 512000 bytes" in result.err
    assert daemon.requests == []


def test_secret_file_that_is_not_there_is_named(swarmlet):
    result = swarmlet("secret", "create", "s", "/nowhere/file")
    assert result.code == 1
    assert "/nowhere/file" in result.err


def test_secret_and_config_listings_are_dockers(swarmlet, daemon):
    found = {
        "ID": "o3jacl8k17iohbrmvdt8bepi7",
        "CreatedAt": recorded.stamp(),
        "UpdatedAt": recorded.stamp(),
        "Spec": {"Name": "api-sec", "Labels": {"x": "y"}},
    }
    daemon.script = {"GET /secrets": (200, [found]), "GET /configs": (200, [found])}
    assert swarmlet("secret", "ls").out == (
        "ID                          NAME      DRIVER    CREATED                  UPDATED\n"
        "o3jacl8k17iohbrmvdt8bepi7   api-sec             Less than a second ago   "
        "Less than a second ago\n"
    )
    assert swarmlet("config", "ls").out == (
        "ID                          NAME      CREATED                  UPDATED\n"
        "o3jacl8k17iohbrmvdt8bepi7   api-sec   Less than a second ago   Less than a second ago\n"
    )
    assert swarmlet("secret", "ls", "--format", "{{.Labels}}").out == "x=y\n"


def test_config_inspect_pretty_prints_dockers_lines(swarmlet, daemon):
    found = {
        "ID": "8z4f8s9lovel0k784i0ad23ea",
        "CreatedAt": "2026-11-22T18:02:58.639539994Z",
        "UpdatedAt": "2026-11-22T18:02:58.639539994Z",
        "Spec": {"Name": "api-conf", "Labels": {}, "Data": "dm0K"},
    }
    daemon.script = {"GET /configs/api-conf": (200, found)}
    assert swarmlet("config", "inspect", "--pretty", "api-conf").out == (
        "ID:\t\t\t8z4f8s9lovel0k784i0ad23ea\n"
        "Name:\t\t\tapi-conf\n"
        "Created at:            \t2026-11-22 18:02:58.639539994 +0000 utc\n"
        "Updated at:            \t2026-11-22 18:02:58.639539994 +0000 utc\n"
        "Data:\nvm\n\n\n"
    )


def test_secret_rm_in_use_is_said(swarmlet, daemon):
    message = "rpc error: code = InvalidArgument desc = secret 'a' is in use by service web"
    daemon.script = {"DELETE /secrets/a": (400, {"message": message})}
    assert swarmlet("secret", "rm", "a").err == "Error: secret 'a' is in use by service web\n"

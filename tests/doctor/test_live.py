"""The whole command on this machine, as whoever runs the tests and as nobody."""

import json
import os
import pwd
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from swarmlet.doctor.catalogue import chosen
from tests.daemon.harness import running_daemon

WITHIN_S = 15.0  # half a second where nothing else runs; a busy machine is not a failure
AS_NOBODY = """
import ctypes, os, pwd, sys
import difflib, encodings.ascii, encodings.idna, encodings.latin_1
import swarmlet.cli.doctor, swarmlet.runtime.process.host
from swarmlet.cli.main import main
nobody = pwd.getpwnam("nobody")
os.setgroups([]); os.setgid(nobody.pw_gid); os.setuid(nobody.pw_uid)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable again, as a user's own program is
sys.exit(main(sys.argv[1:]))
"""
"""All is imported before: what the tests run from may be root's alone."""


def left_behind() -> set[str]:
    """What a probe could leave: links, control groups, mounts of this namespace."""
    names = {f"link {name}" for _, name in socket.if_nameindex()}
    names |= {f"cgroup {path}" for path in Path("/sys/fs/cgroup").rglob("swarmlet-doctor*")}
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return names | {f"mount {line}" for line in mounts if "swarmlet-doctor" in line}


def doctor(*arguments: str, program: str = "", **env: str) -> tuple[int, dict[str, dict[str, str]]]:
    start = ["-c", program] if program else ["-m", "swarmlet"]
    command = [sys.executable, *start, *arguments]
    begin_s = time.monotonic()
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "DOCKER_HOST": "", **env},
    )
    assert time.monotonic() - begin_s < WITHIN_S
    assert ended.stderr == ""
    return ended.returncode, {finding["name"]: finding for finding in json.loads(ended.stdout)}


def test_every_probe_answers_on_this_machine_and_leaves_nothing(tmp_path):
    before = left_behind()
    code, found = doctor("doctor", "--json", "--data-dir", str(tmp_path / "data"))
    assert list(found) == [probe.name for _, probe in chosen([])]
    assert [f for f in found.values() if "itself failed" in f["found"]] == []
    assert code == int(any(f["verdict"] == "fail" for f in found.values()))
    assert found["python"]["verdict"] == "ok"
    assert found["disk-sync"]["verdict"] != "unknown"
    assert list(tmp_path.iterdir()) == []
    assert left_behind() == before


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="becoming nobody needs root")
def test_every_probe_answers_to_an_ordinary_user_and_leaves_nothing(tmp_path):
    nobody = pwd.getpwnam("nobody")
    folder = Path("/tmp", f"swarmlet-doctor-test-{os.getpid()}")  # tmp_path is root's alone
    folder.mkdir()
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    try:
        arguments = ("doctor", "--json", "--data-dir", f"{folder}/data")
        _, found = doctor(*arguments, program=AS_NOBODY, HOME=str(folder))
        assert "ordinary user" in found["privileges"]["found"]
        assert found["data-dir"]["verdict"] != "fail"
        assert [f for f in found.values() if "itself failed" in f["found"]] == []
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="becoming nobody needs root")
def test_data_directory_of_another_fails_with_the_reason():
    code, found = doctor("doctor", "--json", "--data-dir", "/root/x", "disk", program=AS_NOBODY)
    assert code == 1
    assert found["data-dir"]["verdict"] == "fail"
    assert "may not write" in found["data-dir"]["found"]


def test_taken_port_fails_with_its_holder(tmp_path):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        address = f"127.0.0.1:{port}"
        code, found = doctor("doctor", "--json", "--listen-addr", address, "ports")
    assert code == 1
    assert f"(process {os.getpid()})" in found["ports"]["found"]
    assert f"--listen-addr 127.0.0.1:{port + 1}" in found["ports"]["remedy"]


def test_running_daemon_is_asked_and_is_no_docker_engine():
    with running_daemon() as daemon:
        daemon.init()
        host = f"unix://{daemon.socket}"
        arguments = ("daemon", "disk", "docker", "--docker-host", host)
        code, found = doctor("--host", daemon.socket, "doctor", "--json", *arguments)
        assert daemon.process is not None
        assert f"process {daemon.process.pid}" in found["daemon"]["found"]
        assert daemon.data in found["data-dir"]["found"]
    assert code == 1  # for the Docker Engine that was named
    assert [found[name]["verdict"] for name in ("daemon", "swarm", "node")] == ["ok"] * 3
    assert found["docker"]["found"].endswith("is a swarmlet daemon, no Docker Engine.")


def test_open_port_of_the_daemon_is_looked_at_and_its_own():
    with running_daemon() as daemon:
        daemon.init()
        _, found = doctor("--host", daemon.socket, "doctor", "--json", "ports")
    number = daemon.listen.rpartition(":")[2]
    assert f"swarmlet's own daemon has {number}/tcp" in found["ports"]["found"]


def test_running_daemon_says_where_its_docker_engine_is(tmp_path):
    engine = f"unix://{tmp_path}/engine.sock"
    with running_daemon("--docker-host", engine) as daemon:
        arguments = ("--host", daemon.socket, "doctor", "--json", "docker")
        code, found = doctor(*arguments, DOCKER_HOST=f"unix://{daemon.socket}")
    assert code == 0
    assert f"at {engine}" in found["docker"]["found"]


def test_docker_host_that_names_the_daemon_is_no_engine(tmp_path):
    arguments = ("--host", str(tmp_path / "s.sock"), "doctor", "--json", "docker")
    _, found = doctor(*arguments, DOCKER_HOST=f"unix://{tmp_path}/s.sock")
    assert "at unix:///var/run/docker.sock" in found["docker"]["found"]


def test_named_daemon_that_does_not_answer_fails(tmp_path):
    code, found = doctor("--host", str(tmp_path / "s.sock"), "doctor", "--json", "daemon")
    assert code == 1
    assert found["daemon"]["verdict"] == "fail"


def test_docker_that_accepts_and_says_nothing_is_not_waited_for(tmp_path):
    with closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(str(tmp_path / "d.sock"))
        silent.listen()
        host = f"unix://{tmp_path}/d.sock"
        code, found = doctor("doctor", "--json", "docker", "--docker-host", host)
    assert code == 1
    assert "no answer within 2 s" in found["docker"]["found"]


@pytest.mark.skipif(not os.environ.get("SWARMLET_TEST_DOCKER"), reason="no Docker Engine here")
def test_docker_engine_is_known_by_its_version():
    host = os.environ["SWARMLET_TEST_DOCKER"]
    code, found = doctor("doctor", "--json", "docker", "--docker-host", host)
    assert code == 0
    assert found["docker"]["found"].startswith("Docker Engine ")


def test_name_that_is_no_probe_is_wrong_usage():
    command = [sys.executable, "-m", "swarmlet", "doctor", "clok"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "There is no probe 'clok'. Did you mean 'clock'" in ended.stderr


def test_report_for_people_has_groups_and_a_summary():
    command = [sys.executable, "-m", "swarmlet", "doctor", "host"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    told = ended.stdout.splitlines()
    assert told[0] == "host"
    assert told[1].startswith("  ok      python            Python 3.")
    assert told[-1].split()[1] == "ok,"

"""The data directory tells nobody anything, and no task can read it."""

import base64
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.daemon.harness import (
    Daemon,
    clean_up,
    running_daemon,
    service,
    wait_for,
    wait_running,
)

MARKS = {
    "secret": "s3cr3t-payload-of-a-secret",
    "config": "c0nf1g-payload-of-a-config",
    "env": "env-value-of-a-task-spec",
    "label": "label-of-a-service-spec",
    "name": "very-recognisable-service",
}


def fill(client):
    for kind in ("secret", "config"):
        data = base64.b64encode(MARKS[kind].encode()).decode()
        client.post(f"/{kind}s/create", {"Name": f"{kind}-one", "Data": data})
    spec = service(MARKS["name"], Env=[f"A={MARKS['env']}"])
    spec["Labels"] = {"a": MARKS["label"]}
    client.post("/services/create", spec)
    wait_running(client, MARKS["name"], 1)


def files_holding(directory: str, needle: bytes) -> list[str]:
    return [
        str(path.relative_to(directory))
        for path in sorted(Path(directory).rglob("*"))
        if path.is_file() and needle in path.read_bytes()
    ]


def test_data_directory_holds_no_plaintext(swarm):
    client = swarm.client()
    fill(client)
    tokens = client.get("/swarm")["JoinTokens"]
    time.sleep(0.5)
    for needle in [*MARKS.values(), *tokens.values(), "BEGIN EC PRIVATE KEY"]:
        assert files_holding(swarm.data, needle.encode()) == []
    assert files_holding(swarm.data, b"PRIVATE KEY") == ["certificates/swarm-node.key"]
    assert files_holding(swarm.data, b"raft-dek") == ["certificates/swarm-node.key"]
    key = Path(swarm.data, "certificates/swarm-node.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert Path(swarm.data).stat().st_mode & 0o777 == 0o700


def test_daemon_of_an_ordinary_user_leaves_no_core_file_and_shows_its_memory_to_nobody():
    directory, prefix = tempfile.mkdtemp(prefix="swt-", dir="/tmp"), ()
    if os.getuid() == 0:
        os.chown(directory, 65534, 65534)
        prefix = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    daemon = Daemon(directory, prefix=prefix)
    try:
        client = daemon.start().init()
        # proc(5): the files of a process that is not dumpable are root's, whoever runs it
        assert os.stat(f"/proc/{daemon.process.pid}/environ").st_uid == 0
        assert b"process_open_fds" in client.get("/metrics")
    finally:
        clean_up(daemon)
        shutil.rmtree(directory)


def test_certificate_names_node_role_and_cluster(swarm):
    client = swarm.client()
    subject = subprocess.run(
        [
            "openssl",
            "x509",
            "-noout",
            "-subject",
            "-in",
            f"{swarm.data}/certificates/swarm-node.crt",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    node_id = client.get("/info")["Swarm"]["NodeID"]
    assert f"CN = {node_id}" in subject
    assert "OU = swarm-manager" in subject
    assert f"O = {client.get('/swarm')['ID']}" in subject


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root: tasks get uids of their own")
def test_task_of_a_root_daemon_cannot_read_the_data_directory():
    with running_daemon() as daemon:
        client = daemon.init()
        script = (
            f"id -u; ls {daemon.data} 2>&1; cat {daemon.data}/certificates/swarm-node.key 2>&1;"
            f" ls -la {daemon.socket} 2>&1; echo looked; exec sleep 1000"
        )
        client.post("/services/create", service("spy", "/bin/sh", "-c", script))
        wait_running(client, "spy", 1)
        log = wait_for(
            lambda: (
                b"looked" in (raw := client.get("/services/spy/logs?stdout=1&stderr=1")) and raw
            ),
            what="the spy's report",
        )
        assert b"PRIVATE" not in log
        assert b"certificates\n" not in log
        uid = int(log.split(b"\n")[0][8:])
        assert uid >= 1000

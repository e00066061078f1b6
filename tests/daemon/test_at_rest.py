"""The data directory tells nobody anything, and no task can read it."""

import base64
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from swarmlet.ca.key_file import KEY_FILE, PENDING_FILE
from swarmlet.ca.node_files import CERT_FILE, ROOT_FILE, NodeFiles
from swarmlet.ca.unlock_key import parse_unlock_key, unlock_key_text
from swarmlet.core.errors import DamagedError
from swarmlet.env.base import write_atomic
from swarmlet.env.sealed import seal_key
from tests.daemon.harness import (
    ApiError,
    Daemon,
    clean_up,
    pid_of,
    running_daemon,
    service,
    wait_for,
    wait_running,
)
from tests.sim.disk import SimDisk

TOKEN = "SWMTKN-1-" + "a" * 50 + "-" + "b" * 25
MARKS = {
    "secret": "s3cr3t-payload-of-a-secret",
    "config": "c0nf1g-payload-of-a-config",
    "env": "env-value-of-a-task-spec",
    "label": "label-of-a-service-spec",
    "name": "very-recognisable-service",
}


def fill(client):
    uses = {}
    for kind in ("secret", "config"):
        data, name = base64.b64encode(MARKS[kind].encode()).decode(), f"{kind}-one"
        payload_id = client.post(f"/{kind}s/create", {"Name": name, "Data": data})["ID"]
        file, word = {"Name": name, "UID": "0", "GID": "0", "Mode": 0o444}, kind.capitalize()
        uses[f"{word}s"] = [{f"{word}ID": payload_id, f"{word}Name": name, "File": file}]
    spec = service(MARKS["name"], Env=[f"A={MARKS['env']}"], **uses)
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
        assert files_holding(swarm.directory, needle.encode()) == []
    assert files_holding(swarm.data, b"PRIVATE KEY") == ["certificates/swarm-node.key"]
    assert files_holding(swarm.data, b"raft-dek") == ["certificates/swarm-node.key"]
    key = Path(swarm.data, "certificates/swarm-node.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert Path(swarm.data).stat().st_mode & 0o777 == 0o700


def keys_of(daemon, unlock_key=b""):
    """Read from a copy: reading finishes what a crash interrupted, and the daemon is at work."""
    disk, there = SimDisk(), Path(daemon.data, "certificates")
    for name in (ROOT_FILE, CERT_FILE, KEY_FILE, PENDING_FILE):
        with contextlib.suppress(FileNotFoundError):
            write_atomic(disk, f"/{name}", [(there / name).read_bytes()])
    files = NodeFiles(disk, "")
    if unlock_key:
        files.unlock(unlock_key)
    return files.read()[2]


def lock(client, *, locks):
    swarm = client.get("/swarm")
    spec = {**swarm["Spec"], "EncryptionConfig": {"AutoLockManagers": locks}}
    client.post(f"/swarm/update?version={swarm['Version']['Index']}", spec)
    return client.get("/swarm/unlockkey")["UnlockKey"]


def is_settled(daemon, unlock_key):
    """Whether it is locked, and nothing of the keys that were in the clear is in use any more."""
    if files_holding(daemon.data, b"PRIVATE KEY"):
        return False
    try:
        keys = keys_of(daemon, unlock_key)
    except DamagedError:  # a file is just being replaced
        return False
    return not (
        keys.raft_dek_needs_rotation or keys.raft_dek_pending or keys.tls_key_needs_rotation
    )


def check_nothing_readable(daemon, *needles):
    for needle in (*needles, b"PRIVATE KEY", b"raft-dek", b"node-dek"):
        assert files_holding(daemon.data, needle) == []
        assert files_holding(daemon.data, base64.b64encode(needle).rstrip(b"=")) == []


def test_nothing_of_a_locked_manager_can_be_read_without_its_key(swarm):
    client = swarm.client()
    fill(client)
    tokens = client.get("/swarm")["JoinTokens"]
    clear = keys_of(swarm)
    text = lock(client, locks=True)
    unlock_key = parse_unlock_key(text)
    wait_for(lambda: is_settled(swarm, unlock_key), what="keys that never were in the clear")
    keys = keys_of(swarm, unlock_key)
    assert keys.raft_dek != clear.raft_dek
    assert keys.tls_key_pem != clear.tls_key_pem
    swarm.stop()
    secrets = [one.encode() for one in (*MARKS.values(), *tokens.values(), text)]
    for keyset in (clear, keys):
        secrets += [keyset.raft_dek, keyset.node_dek, keyset.tls_key_pem.splitlines()[1]]
    check_nothing_readable(swarm, *secrets, unlock_key)
    old = seal_key(clear.raft_dek).key_id
    assert files_holding(swarm.data, old) == []  # no file was sealed by it
    swarm.start()
    assert client.get("/info")["Swarm"]["LocalNodeState"] == "locked"
    with pytest.raises(ApiError, match="needs to be unlocked"):
        client.get("/secrets")


def test_locked_manager_keeps_its_tasks_and_adopts_them_when_it_is_unlocked(swarm):
    client = swarm.client()
    client.post("/services/create", service("web"))
    (task,) = wait_running(client, "web", 1)
    text = lock(client, locks=True)
    wait_for(lambda: files_holding(swarm.data, b"LOCKED KEYS"), what="the lock")
    swarm.kill()
    swarm.start()
    assert client.get("/info")["Swarm"]["Error"].startswith("Swarm is encrypted")
    assert client.get("/version")["ApiVersion"]
    assert os.path.exists(f"/proc/{pid_of(task)}")
    for wrong, status in (("x", 400), (unlock_key_text(bytes(32)), 401)):
        with pytest.raises(ApiError) as refused:
            client.post("/swarm/unlock", {"UnlockKey": wrong})
        assert refused.value.status == status
    with pytest.raises(ApiError, match="encrypted and locked"):
        client.post("/swarm/leave")
    with pytest.raises(ApiError, match="already part of a swarm"):
        client.post("/swarm/join", {"RemoteAddrs": ["127.0.0.1:1"], "JoinToken": TOKEN})
    with pytest.raises(ApiError, match="needs to be unlocked"):
        client.post("/swarm/init", {"ForceNewCluster": True})
    client.post("/swarm/unlock", {"UnlockKey": text})
    with pytest.raises(ApiError, match="swarm is not locked"):
        client.post("/swarm/unlock", {"UnlockKey": text})
    (adopted,) = wait_running(client, "web", 1)
    assert (adopted["ID"], pid_of(adopted)) == (task["ID"], pid_of(task))


def test_locked_manager_can_be_left_by_force_and_its_tasks_end(swarm):
    client = swarm.client()
    client.post("/services/create", service("web"))
    (task,) = wait_running(client, "web", 1)
    lock(client, locks=True)
    wait_for(lambda: files_holding(swarm.data, b"LOCKED KEYS"), what="the lock")
    swarm.kill()
    swarm.start()
    client.post("/swarm/leave?force=1")
    assert client.get("/info")["Swarm"]["LocalNodeState"] == "inactive"
    wait_for(lambda: not os.path.exists(f"/proc/{pid_of(task)}"), what="the task's end")
    swarm.init()  # a swarm of its own again, and open
    assert keys_of(swarm)


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

"""Whatever is wrong gets a sentence, a remedy, the right status, and has no effect."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.daemon.harness import ApiError, Daemon, running_daemon, service


def refused(client, method, url, body=None, raw=None):
    with pytest.raises(ApiError) as caught:
        client.call(method, url, body, raw=raw)
    return caught.value


def broken(change):
    spec = service("web")
    change(spec)
    return spec


def container(**fields):
    return broken(lambda spec: spec["TaskTemplate"]["ContainerSpec"].update(fields))


def template(**fields):
    return broken(lambda spec: spec["TaskTemplate"].update(fields))


BAD_SERVICES = [
    (broken(lambda s: s.update(Name="bad name")), 400, "name"),
    (broken(lambda s: s.update(Name="x" * 64)), 400, "name"),
    (container(Image=""), 400, "image"),
    (container(Image="a/UPPER:x:y"), 400, "image"),
    (container(Env=5), 400, "Env"),
    (container(Env=["=x"]), 400, "env"),
    (container(StopGracePeriod="10s"), 400, "StopGracePeriod"),
    (template(Placement={"Constraints": ["node.foo==x"]}), 400, "node.foo"),
    (template(Placement={"Constraints": ["node.role=manager"]}), 400, "constraint"),
    (template(Resources={"Limits": {"MemoryBytes": 5}}), 400, "memory"),
    (template(Resources={"Reservations": {"NanoCPUs": 5}}), 400, "cpu"),
    (template(RestartPolicy={"Condition": "sometimes"}), 400, "restart"),
    (template(RestartPolicy={"Delay": -1}), 400, "delay"),
    (broken(lambda s: s.update(Mode={"Replicated": {"Replicas": -1}})), 400, "replicas"),
    (broken(lambda s: s.update(Mode={"Replicated": {"Replicas": 1.5}})), 400, "Replicas"),
    (broken(lambda s: s.update(EndpointSpec={"Ports": [{"TargetPort": 80}]})), 501, "ingress"),
    (
        broken(
            lambda s: s.update(
                EndpointSpec={"Ports": [{"TargetPort": 99999, "PublishMode": "host"}]}
            )
        ),
        400,
        "port",
    ),
    (container(Mounts=[{"Type": "bind", "Source": "/a", "Target": "b"}]), 400, "absolute"),
    (container(Mounts=[{"Type": "image", "Source": "a", "Target": "/b"}]), 501, "type image"),
    (container(Healthcheck={"Test": ["curl", "localhost"]}), 400, "curl"),
    (container(Hostname="h-{{.Task.Nope}}"), 400, "expanding hostname failed"),
]


@pytest.mark.parametrize(
    ("spec", "status", "word"), BAD_SERVICES, ids=[str(n) for n in range(len(BAD_SERVICES))]
)
def test_bad_service_is_refused_and_stored_nowhere(shared, spec, status, word):
    error = refused(shared, "POST", "/services/create", spec)
    assert error.status == status
    assert word.lower() in error.message.lower()
    assert shared.get("/services") == []


@pytest.fixture(scope="module")
def shared():
    with running_daemon() as daemon:
        yield daemon.init()


@pytest.mark.parametrize(
    ("raw", "word"),
    [(b"{", "invalid JSON"), (b"[]", "object"), (b'{"Name":"a"} x', "JSON"), (b"\xff", "JSON")],
)
def test_bad_json_is_refused(shared, raw, word):
    error = refused(shared, "POST", "/services/create", raw=raw)
    assert error.status == 400
    assert word.lower() in error.message.lower()


def test_stale_version_is_docker_s_500(shared):
    (node,) = shared.get("/nodes")
    spec = {**node["Spec"], "Labels": {"a": "1"}}
    version = node["Version"]["Index"]
    shared.post(f"/nodes/{node['ID']}/update?version={version}", spec)
    error = refused(shared, "POST", f"/nodes/{node['ID']}/update?version={version}", spec)
    assert (error.status, "update out of sequence" in error.message) == (500, True)


def test_second_init_is_refused(shared):
    error = refused(shared, "POST", "/swarm/init", {"AdvertiseAddr": "127.0.0.1"})
    assert (error.status, "already part of a swarm" in error.message) == (503, True)


@pytest.mark.parametrize("path", ["/services/nope", "/nodes/nope", "/tasks/nope", "/secrets/nope"])
def test_missing_object_is_404(shared, path):
    assert refused(shared, "GET", path).status == 404


def test_listen_port_in_use_is_named(daemon):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        error = refused(daemon.client(), "POST", "/swarm/init", {"ListenAddr": address})
    assert "already in use" in error.message
    assert daemon.client().get("/info")["Swarm"]["LocalNodeState"] == "inactive"


@pytest.mark.parametrize("address", ["eth99", "1.2.3", "0.0.0.0", "eth99:2377"])
def test_advertised_address_nobody_can_call_is_refused(daemon, address):
    error = refused(daemon.client(), "POST", "/swarm/init", {"AdvertiseAddr": address})
    assert (error.status, address.partition(":")[0] in error.message) == (400, True)
    assert daemon.client().get("/info")["Swarm"]["LocalNodeState"] == "inactive"


def ended(daemon: Daemon) -> str:
    """What a daemon that must not start says."""
    done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")
    return done.stderr


def test_data_of_another_version_is_refused(tmp_path):
    daemon = Daemon(str(tmp_path))
    Path(daemon.data).mkdir()
    Path(daemon.data, "format").write_text("swarmlet data 99\n")
    said = ended(daemon)
    assert "another version" in said
    assert "Try:" in said


def test_directory_of_somebody_else_is_refused(tmp_path):
    daemon = Daemon(str(tmp_path))
    Path(daemon.data).mkdir()
    Path(daemon.data, "thesis.doc").write_text("precious")
    assert "not a swarmlet data directory" in ended(daemon)


def test_second_daemon_on_the_same_directory_is_refused(daemon):
    assert "Another swarmlet daemon" in ended(daemon)


def test_socket_path_that_is_too_long_is_refused_with_a_shorter_one(tmp_path):
    daemon = Daemon(str(tmp_path))
    daemon.socket = "/tmp/" + "x" * 120
    said = ended(daemon)
    assert "125 bytes" in said
    assert "unix:///" in said


def test_socket_path_that_cannot_be_written_is_refused(tmp_path):
    daemon = Daemon(str(tmp_path))
    daemon.socket = "/proc/swarmlet.sock"
    assert "/proc/swarmlet.sock" in ended(daemon)


def test_damage_in_the_middle_of_the_log_is_refused(daemon):
    client = daemon.init()
    for number in range(20):
        client.post("/configs/create", {"Name": f"c{number}", "Data": "eA=="})
    daemon.kill()
    (journal, *_) = sorted(
        (p for p in Path(daemon.data, "raft").rglob("*") if p.is_file()),
        key=lambda p: -p.stat().st_size,
    )
    raw = bytearray(journal.read_bytes())
    raw[1000] ^= 0xFF
    journal.write_bytes(raw)
    said = ended(daemon)
    assert "damaged" in said.lower()
    assert "Try:" in said


@pytest.mark.parametrize("name", ["state.json", "swarm-node.crt", "swarm-root-ca.crt", "journal"])
def test_start_without_a_file_is_refused_and_removes_nothing(daemon, name):
    daemon.init()
    daemon.kill()
    (lost,) = Path(daemon.data).rglob(name)
    kept = lost.read_bytes()
    lost.unlink()
    before = sorted(str(path) for path in Path(daemon.data).rglob("*"))
    said = ended(daemon)
    assert "missing" in said
    assert "Try:" in said
    assert sorted(str(path) for path in Path(daemon.data).rglob("*")) == before
    lost.write_bytes(kept)
    assert daemon.start().client().get("/info")["Swarm"]["LocalNodeState"] == "active"


def test_directory_that_cannot_be_used_is_refused_with_a_remedy(tmp_path):
    daemon = Daemon(str(tmp_path))
    daemon.data = "/proc/swarmlet"
    said = ended(daemon)
    assert "/proc/swarmlet" in said
    assert "Try:" in said


def fill(path):
    """Write until the filesystem has no room left."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        write_for_ever(file)


def free_b(directory):
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def write_for_ever(file):
    while True:
        file.write(b"x" * 100_000)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root: mounts a small filesystem")
def test_full_disk_refuses_writes_and_recovers(tmp_path):
    directory = str(tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", directory], check=True)
    os.chmod(directory, 0o755)
    daemon = Daemon(directory)
    try:
        client = daemon.start().init()
        filler = Path(directory, "filler")
        fill(filler)
        error = None
        written = []
        for number in range(400):
            try:
                name = f"c{number}"
                client.post("/configs/create", {"Name": name, "Data": "eHh4" * 40_000})
                written.append(name)
            except ApiError as caught:
                error = caught
                break
        assert error is not None
        assert error.status == 507
        assert "no room" in error.message.lower()
        present = {c["Spec"]["Name"] for c in client.get("/configs")}
        assert present == set(written)
        filler.unlink()
        client.post("/configs/create", {"Name": "after", "Data": "eA=="})
        client.post("/swarm/leave?force=1")
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free_b(directory) - 8_500_000)
        daemon.init()  # there is room for a log, but not for the agent's tasks
        client.post("/swarm/leave?force=1")
    finally:
        daemon.stop()
        subprocess.run(["umount", directory], check=True)

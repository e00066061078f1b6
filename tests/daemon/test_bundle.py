"""A debug bundle of a real daemon holds what helps, and none of the secrets planted everywhere."""

import base64
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from swarmlet.cli.bundle import _files
from swarmlet.runtime.process.volumes import remove_content
from tests.daemon.harness import running_daemon, service, wait_running

UNLOCK_KEY = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8"
PLANTED = {
    "env": "pl4nted-in-the-environment",
    "arg": "pl4nted-in-an-argument",
    "label": "pl4nted-in-a-label",
    "task label": "pl4nted-in-a-task's-label",
    "option": "pl4nted-in-an-option",
    "secret": "pl4nted-in-a-secret",
    "config": "pl4nted-in-a-config",
    "file": "pl4nted-in-a-file",
    "log": "pl4nted-in-the-log",
}


def make_bundle(path, *options):
    command = [sys.executable, "-m", "swarmlet", *options, "debug", "bundle", "-o", str(path)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=55)


def parts_of(path):
    with tarfile.open(path) as archive:
        return {
            member.name.rpartition("/")[2]: archive.extractfile(member).read().decode()
            for member in archive.getmembers()
        }


def plant(daemon):
    """Put secrets wherever there is a place for them; returns all of them."""
    client = daemon.init()
    for kind in ("secret", "config"):
        data = base64.b64encode(PLANTED[kind].encode()).decode()
        client.post(f"/{kind}s/create", {"Name": f"my-{kind}", "Data": data})
    spec = service("web", "/bin/sh", "-c", f"echo {PLANTED['env']}; exec sleep 1000")
    spec["Labels"] = {"auth": PLANTED["label"], "com.docker.stack.namespace": "shop"}
    container = spec["TaskTemplate"]["ContainerSpec"]
    container["Args"] = [PLANTED["arg"], "x"]
    container["Env"] = [f"DB_PASSWORD={PLANTED['env']}", f"KEY={UNLOCK_KEY}"]
    container["Labels"] = {"x": PLANTED["task label"]}
    client.post("/services/create", spec)
    idle = service("idle", replicas=0)
    options = {"labels": PLANTED["option"]}
    idle["TaskTemplate"]["LogDriver"] = {"Name": "json-file", "Options": options}
    client.post("/services/create", idle)
    wait_running(client, "web", 1)
    tokens = client.get("/swarm")["JoinTokens"]
    encoded = [base64.b64encode(text.encode()).decode() for text in PLANTED.values()]
    write_log(daemon, list(tokens.values()))
    return [*PLANTED.values(), *encoded, *tokens.values(), UNLOCK_KEY, UNLOCK_KEY[9:]]


def write_log(daemon, tokens):
    """A log in the data directory, as `init` starts a daemon, with all that must not be in it."""
    lines = [
        f"2026-01-01T00:00:00.000Z INFO    made.up note={PLANTED['env']}",
        f'2026-01-01T00:00:00.000Z INFO    made.up password="{PLANTED["log"]}"',
        f"Authorization: Basic {base64.b64encode(PLANTED['log'].encode()).decode()}",
        f"https://me:{PLANTED['log']}@registry.local/v2/",
        f"join with {tokens[0]} or {tokens[1]}, unlock with {UNLOCK_KEY}",
        "-----BEGIN EC PRIVATE KEY-----",
        base64.b64encode(PLANTED["file"].encode()).decode(),
        "-----END EC PRIVATE KEY-----",
        "2026-01-01T00:00:00.000Z INFO    raft.leadership term=7",
    ]
    Path(daemon.data, "daemon.log").write_text("\n".join(lines) + "\n")
    Path(daemon.data, "daemon.log.1").write_text(f"token: {PLANTED['log']}\nolder.line\n")
    folder = Path(daemon.data, "made-up")
    folder.mkdir()
    (folder / "tls.key").write_text(PLANTED["file"])


def test_bundle_holds_what_helps_and_no_secret(tmp_path):
    path = tmp_path / "b.tar.gz"
    with running_daemon("--runtime", "process") as daemon:
        planted = plant(daemon)
        node = daemon.client().get("/nodes")[0]
        ran = make_bundle(path, "--host", daemon.socket)
    assert ran.returncode == 0, ran.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    parts = parts_of(path)
    everything = "\n".join([*parts, *parts.values(), ran.stdout, ran.stderr])
    for secret in planted:
        assert secret not in everything
    assert "pl4nted" not in everything
    services = {each["Spec"]["Name"]: each for each in json.loads(parts["services.json"])}
    assert sorted(services) == ["idle", "web"]
    assert services["web"]["Spec"]["Labels"]["com.docker.stack.namespace"] == "shop"
    names = [pair.partition("=")[0] for pair in environment_of(services["web"])]
    assert names == ["DB_PASSWORD", "KEY"]
    assert json.loads(parts["nodes.json"])[0]["ID"] == node["ID"]
    assert json.loads(parts["tasks.json"])[0]["Status"]["State"] == "running"
    assert json.loads(parts["secrets.json"])[0]["Spec"]["Name"] == "my-secret"
    assert "raft.leadership term=7" in parts["daemon.log"]
    assert "older.line" in parts["daemon.log"]
    assert "swarmlet_" in parts["metrics.txt"]
    assert "/raft/" in parts["files.txt"]
    assert "made-up/tls.key" in parts["files.txt"]
    assert "uname: Linux" in parts["host.txt"]
    assert all(name in parts["README.txt"] for name in parts if name != "README.txt")
    assert all(name in ran.stdout for name in parts)
    assert "Read it before you send it" in ran.stdout


def environment_of(found):
    return found["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]


def test_bundle_of_a_daemon_in_no_swarm_says_what_is_missing(daemon, tmp_path):
    ran = make_bundle(tmp_path / "b.tar.gz", "--host", daemon.socket)
    assert ran.returncode == 0, ran.stderr
    parts = parts_of(tmp_path / "b.tar.gz")
    assert "info.json" in parts
    assert "nodes.json: This node is not a swarm manager" in parts["README.txt"]
    assert "nodes.json" in ran.stderr


def nested(folder, depth):
    """Folders in each other, deeper than any path goes."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a", dir_fd=at)
        below = os.open("a", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_names_are_listed_but_those_that_tasks_gave(tmp_path):
    content = tmp_path / "volumes" / "v" / "_data"
    content.mkdir(parents=True)
    (content / "theirs").touch()
    (tmp_path / "line\n\x1b[2J").touch()
    nested(content, 2_000)
    (line,) = list(_files(str(tmp_path)))
    assert line.isprintable()
    assert line.endswith('line\\n\\u001b[2J"')
    for _ in remove_content(str(content)):
        pass


def test_bundle_is_made_where_no_daemon_answers(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "daemon.log").write_text("Error: the disk is broken.\n")
    path = tmp_path / "b.tar.gz"
    command = [sys.executable, "-m", "swarmlet", "--host", str(tmp_path / "no.sock")]
    ran = subprocess.run(
        [*command, "debug", "bundle", "-o", str(path), "--data-dir", str(tmp_path / "data")],
        check=False,
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert ran.returncode == 0, ran.stderr
    parts = parts_of(path)
    assert "No swarmlet daemon answers" in parts["README.txt"]
    assert "the disk is broken" in parts["daemon.log"]
    assert {"host.txt", "files.txt"} <= set(parts)
    assert "info.json" not in parts


@pytest.mark.parametrize("kind", ["file", "link"])
def test_bundle_overwrites_nothing(tmp_path, kind):
    path = tmp_path / "b.tar.gz"
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    ran = make_bundle(path, "--host", str(tmp_path / "no.sock"))
    assert ran.returncode == 1
    assert "is there already; it was left alone" in ran.stderr
    assert sorted(tmp_path.iterdir()) == [path]

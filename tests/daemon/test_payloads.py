"""Secrets and configs on their whole way: from the command line to a task's files, and away."""

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.harness import (
    ApiError,
    Daemon,
    clean_up,
    pid_of,
    running_daemon,
    service,
    tasks_of,
    wait_for,
    wait_running,
)
from tests.docker.cli import NEEDS_CLI, docker_of

TREASURE = "tr3asure-of-a-service"
NOBODY = 65_534
ROOT = Path(__file__).parent.parent.parent
SHOW = "cat $SWARMLET_SECRETS/* $SWARMLET_CONFIGS/* 2>/dev/null; echo .; exec sleep 1000"


class OrdinaryDaemon(Daemon):
    """As nobody, with an interpreter that nobody may use, also for the shims of its tasks."""

    def command(self) -> list[str]:
        site = next(path for path in sys.path if path.endswith("site-packages"))
        python = f"/usr/bin/python3.{sys.version_info.minor}"
        switch = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        switch += ["env", "-i", "PATH=/usr/bin:/bin", f"PYTHONPATH={ROOT}:{site}", python, "-B"]
        words = super().command()
        return [*switch, *words[words.index("-m") :]]


@pytest.fixture(params=["root", "nobody"])
def daemon(request) -> Iterator[Daemon]:
    """A daemon in a swarm of its own, as root and as an ordinary user."""
    if os.getuid() != 0:
        with running_daemon() as running:
            running.init()
            yield running
        return
    if request.param == "root":
        with running_daemon() as running:
            running.init()
            yield running
        return
    directory = tempfile.mkdtemp(prefix="swt-", dir="/tmp")
    os.chown(directory, NOBODY, NOBODY)
    running = OrdinaryDaemon(directory)
    try:
        running.start().init()
        yield running
    finally:
        clean_up(running)
        shutil.rmtree(directory)


def swarmlet(daemon: Daemon, *words: str, stdin: str = "", code: int = 0) -> str:
    command = [sys.executable, "-m", "swarmlet", "--host", f"unix://{daemon.socket}", *words]
    ran = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.returncode == code, ran.stderr + ran.stdout
    return ran.stdout + ran.stderr


def log_of(client, name: str, needle: str) -> str:
    def read() -> str:
        raw = client.get(f"/services/{name}/logs?stdout=1&stderr=1")
        text = raw.decode(errors="replace") if isinstance(raw, bytes) else ""
        return text if needle in text else ""

    return str(wait_for(read, what=f"{needle!r} in the log of {name}"))


def files_holding(needle: str, *folders: str) -> list[str]:
    found = []
    for folder in folders:
        for path in Path(folder).rglob("*"):
            try:
                if path.is_file() and needle.encode() in path.read_bytes():
                    found.append(str(path))
            except OSError:  # another test's, gone just now
                continue
    return found


def create(client, kind: str, name: str, data: str, **more) -> dict:
    body = {"Name": name, "Data": base64.b64encode(data.encode()).decode(), **more}
    payload_id = client.post(f"/{kind}s/create", body)["ID"]
    word = kind.capitalize()
    target = name if kind == "secret" else f"/{name}"
    file = {"Name": target, "UID": "0", "GID": "0", "Mode": 0o444}
    return {f"{word}ID": payload_id, f"{word}Name": name, "File": file}


def test_command_line_gives_tasks_secrets_and_configs(daemon):
    swarmlet(daemon, "secret", "create", "key", "-", stdin=TREASURE)
    swarmlet(daemon, "config", "create", "app.conf", "-", stdin="of-the-config")
    swarmlet(
        daemon,
        *("service", "create", "--detach", "--name", "web", "--replicas", "2"),
        *("--secret", "key", "--secret", "source=key,target=other/name,mode=0400"),
        *("--config", "app.conf", "host", "sh", "-c"),
        f"ls -R $SWARMLET_SECRETS; {SHOW}",
    )
    client = daemon.client()
    wait_running(client, "web", 2)
    text = log_of(client, "web", "of-the-config")
    assert TREASURE in text
    assert "other:" in text
    assert "is in use by the following service: web" in swarmlet(
        daemon, "secret", "rm", "key", code=1
    )
    swarmlet(daemon, "service", "update", "--detach", "--secret-rm", "key", "web")
    swarmlet(daemon, "secret", "rm", "key")


@pytest.mark.parametrize("cli", [pytest.param("docker", marks=NEEDS_CLI)])
def test_docker_cli_gives_tasks_secrets_and_configs(daemon, cli):
    with docker_of(daemon.socket) as docker:
        docker("secret", "create", "key", "-", stdin=TREASURE)
        docker("config", "create", "app.conf", "-", stdin="of-the-config")
        docker(
            *("service", "create", "-d", "--name", "web", "--secret", "key"),
            *("--secret", "source=key,target=second,mode=0400", "--config", "app.conf"),
            *("host", "sh", "-c", SHOW),
        )
        client = daemon.client()
        wait_running(client, "web", 1)
        log_of(client, "web", "of-the-config")
        assert "is in use by the following service: web" in docker("secret", "rm", "key", code=1)


def test_bytes_of_a_secret_are_on_no_disk_and_in_no_log(daemon):
    client = daemon.client()
    references = [create(client, "secret", "key", TREASURE)]
    configs = [create(client, "config", "conf", f"{TREASURE}-of-a-config")]
    script = f"wc -c $SWARMLET_SECRETS/key $SWARMLET_CONFIGS/conf; exec sleep {os.getpid()}.7"
    spec = service("web", "/bin/sh", "-c", script, Secrets=references, Configs=configs)
    client.post("/services/create", spec)
    (task,) = wait_running(client, "web", 1)
    log_of(client, "web", f"{len(TREASURE)} ")
    places = (daemon.directory, "/run", "/var/tmp")
    assert files_holding(TREASURE, *places) == []
    assert files_holding(base64.b64encode(TREASURE.encode()).decode()[:20], *places) == []
    ours = [p for p in files_holding(TREASURE, "/dev/shm") if task["ID"] in p]
    assert len(ours) == (0 if os.stat(daemon.socket).st_uid == 0 else 2)
    for name in ("environ", "cmdline"):
        for pid in (pid_of(task), daemon.process.pid):
            assert TREASURE.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    client.delete("/services/web")
    wait_for(lambda: not Path(f"/proc/{pid_of(task)}").exists(), what="the task's end")
    wait_for(
        lambda: not [p for p in files_holding(TREASURE, "/dev/shm") if task["ID"] in p],
        what="the end of its files",
    )


def test_killed_daemon_comes_back_to_tasks_with_their_secrets_and_starts_more(daemon):
    client = daemon.client()
    reference = create(client, "secret", "key", TREASURE)
    script = "while sleep 0.1; do test -s $SWARMLET_SECRETS/key || exit 3; done"
    spec = service("web", "/bin/sh", "-c", script, Secrets=[reference])
    client.post("/services/create", spec)
    (task,) = wait_running(client, "web", 1)
    daemon.kill()
    daemon.start()
    client = daemon.client()
    swarmlet(daemon, "service", "scale", "--detach", "web=3")
    tasks = wait_running(client, "web", 3)
    assert pid_of(task) in [pid_of(one) for one in tasks]
    assert len(tasks_of(client, "web")) == 3  # nothing failed


def test_templates_are_expanded_for_each_task_and_a_wrong_one_tells_no_secret(daemon):
    client = daemon.client()
    golang = {"Templating": {"Name": "golang"}}
    key = create(client, "secret", "key", TREASURE)
    text = '{{.Service.Name}}/{{.Task.Slot}}/{{env "COLOR"}}/{{secret "key"}}'
    conf = create(client, "config", "conf", text, **golang)
    spec = service("web", "/bin/sh", "-c", SHOW, Env=["COLOR=red"], Secrets=[key], Configs=[conf])
    client.post("/services/create", spec)
    wait_running(client, "web", 1)
    log_of(client, "web", f"web/1/red/{TREASURE}")
    for number, (wrong, says) in enumerate(
        (('{{(secret "key").X}}', "line 1"), ('{{secret "nope"}}', "secret target nope not found"))
    ):
        bad = create(client, "config", f"bad{number}", wrong, **golang)
        name = f"broken{number}"
        spec = service(name, "/bin/sh", "-c", SHOW, Secrets=[key], Configs=[bad])
        client.post("/services/create", spec)
        errors = wait_for(
            lambda n=name: [t["Status"].get("Err", "") for t in tasks_of(client, n)
                            if t["Status"]["State"] == "failed"],
            what="a failure",
        )  # fmt: skip
        assert f"expanding config bad{number} failed: " in errors[0]
        assert says in errors[0]
        assert TREASURE not in errors[0]
    assert TREASURE not in daemon.log()


def test_owner_that_is_no_number_is_rejected_with_a_sentence(daemon):
    client = daemon.client()
    reference = create(client, "secret", "key", TREASURE)
    reference["File"]["UID"] = "www-data"
    client.post("/services/create", service("web", Secrets=[reference]))
    states = wait_for(
        lambda: [
            t["Status"] for t in tasks_of(client, "web") if t["Status"]["State"] == "rejected"
        ],
        what="a rejection",
    )
    assert 'The secret key cannot belong to "www-data"' in states[0]["Err"]


def test_secret_of_a_name_that_is_not_there_is_refused(daemon):
    client = daemon.client()
    reference = create(client, "secret", "key", TREASURE)
    client.delete("/secrets/key")
    with pytest.raises(ApiError, match="secret not found: key"):
        client.post("/services/create", service("web", Secrets=[reference]))

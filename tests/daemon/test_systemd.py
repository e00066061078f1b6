"""The service under a real systemd, where this host lets us start one of our own.

It is a user's instance, in control group, mount and process namespaces of its own: of the host's
units it sees none, and it ends with them. This module is also the program that runs in there.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.daemon.harness import (
    Client,
    free_port,
    pid_of,
    service,
    tasks_of,
    wait_for,
    wait_running,
)

SYSTEMD = "/lib/systemd/systemd"
TARGETS = ("default", "basic", "sysinit", "shutdown", "exit")
SWARMLET = (sys.executable, "-m", "swarmlet")


def present_cgroup():
    """The folder of our own cgroup of version 2, None where there is none."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    roots = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    found = Path(roots[0], own[0]) if roots and own else None
    return found if found and found.is_dir() else None


@pytest.fixture
def own_cgroup():
    if os.getuid() != 0:
        pytest.skip("needs root to start a systemd of its own")
    if not Path(SYSTEMD).exists() or shutil.which("unshare") is None:
        pytest.skip("systemd is not installed")
    parent = present_cgroup()
    if parent is None or not os.access(parent, os.W_OK):
        pytest.skip("there is no cgroup of version 2 to make one in")
    own = parent / f"swt-systemd-{os.getpid()}"
    try:
        own.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error.strerror}")
    yield own
    wait_for(lambda: removed(own), what="an empty cgroup")


def removed(folder):
    """Whether it is gone, with all below; it is busy as long as processes in it die."""
    try:
        for each in sorted(folder.rglob("*/"), key=lambda path: -len(path.parts)):
            each.rmdir()
        folder.rmdir()
    except OSError:
        return False
    return True


@pytest.mark.root
def test_service_under_a_real_systemd_keeps_its_tasks(own_cgroup, tmp_path):
    enter = f'echo $$ > {own_cgroup}/cgroup.procs && exec "$0" "$@"'
    apart = ["unshare", "-C", "-m", "-p", "-f", "--kill-child", "--mount-proc"]
    program = [sys.executable, "-m", "tests.daemon.test_systemd", str(tmp_path)]
    ran = subprocess.run(
        ["sh", "-c", enter, *apart, *program],
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
        cwd=Path(__file__).parents[2],
    )
    if ran.returncode == 77 or ran.stderr.startswith(("unshare: ", "sh: ")):
        pytest.skip(ran.stderr.strip().splitlines()[-1])
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout)
    pids = found.pop("first")
    assert len(pids) == 2
    assert found.pop("told to stop") == {"pids": pids, "state": "inactive", "code": "100"}
    assert {name: each["pids"] for name, each in found.items()} == dict.fromkeys(found, pids)
    assert {each["state"] for each in found.values()} == {"active"}
    assert list(found) == ["killed", "terminated", "restarted", "stopped and started", "at last"]
    journal = (tmp_path / "journal").read_text().splitlines()
    assert any(line.startswith("<6>INFO    daemon.ready socket=") for line in journal)
    assert all(line.startswith("<") for line in journal if ".ready" in line or ".stop" in line)


# What runs in the namespaces -----------------------------------------------------------------


def trial(directory):
    """Start systemd and the service in it, do to it what hosts do, and print what was found."""
    make_world(directory)
    client = Client(f"{directory}/s.sock")
    systemd = start_systemd(directory)
    try:
        systemctl("start", "swarmlet")  # it returns when the API answers
        client.post("/swarm/init", {"ListenAddr": f"127.0.0.1:{free_port()}"})
        client.post("/services/create", service("web", replicas=2))
        sys.stdout.write(json.dumps(seen_by(client)))
    finally:
        systemctl("stop", "swarmlet")
        systemd.kill()  # the namespaces end with us
        systemd.wait(10)


def seen_by(client):
    found = {"first": pids_of(client)}
    for name, number in (("killed", signal.SIGKILL), ("terminated", signal.SIGTERM)):
        before = main_pid()
        os.kill(before, number)
        wait_for(lambda old=before: main_pid() not in (0, old), what=f"a new daemon, {name}")
        systemctl("start", "swarmlet")
        found[name] = facts(client)
    systemctl("restart", "swarmlet")
    found["restarted"] = facts(client)
    pids = found["first"]
    subprocess.run([*SWARMLET, "--host", client.path, "daemon", "stop"], check=True, stdout=2)
    time.sleep(2.5)  # a restart would come after one
    alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    found["told to stop"] = {"pids": alive, "state": state(), "code": shown("ExecMainStatus")}
    systemctl("start", "swarmlet")
    systemctl("stop", "swarmlet")
    systemctl("start", "swarmlet")
    found["stopped and started"] = facts(client)
    everything = {"pids": sorted(pid_of(task) for task in tasks_of(client, "web"))}
    found["at last"] = {**everything, "state": state()}
    client.post("/swarm/leave?force=1")
    return found


def make_world(directory):
    os.environ.update(
        XDG_RUNTIME_DIR=f"{directory}/run",
        HOME=directory,
        SYSTEMD_UNIT_PATH=f"{directory}/units",
        DBUS_SESSION_BUS_ADDRESS="unix:path=/nowhere",
    )
    for name in ("NOTIFY_SOCKET", "SWARMLET_HOST"):
        os.environ.pop(name, None)
    for kind, place in (("cgroup2", "/sys/fs/cgroup"), ("tmpfs", "/run")):
        if subprocess.run(["mount", "-t", kind, "none", place], check=False).returncode:
            sys.stderr.write(f"{kind} cannot be mounted here\n")
            sys.exit(77)
    os.makedirs("/run/systemd/system")  # sd_booted(3)
    os.makedirs("/run/systemd/journal")
    os.makedirs(f"{directory}/run", 0o700)
    units = Path(directory, "units")
    units.mkdir()
    for name in TARGETS:
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    options = ["--data-dir", f"{directory}/data", "--host", f"unix://{directory}/s.sock"]
    command = [*SWARMLET, "daemon", "install", "--unit-file", f"{units}/swarmlet.service"]
    subprocess.run([*command, *options, "--runtime", "process"], check=True, stdout=2)
    keep_journal(f"{directory}/journal")


def keep_journal(path):
    """Be the journal: what systemd connects a service's stderr to."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("/run/systemd/journal/stdout")
    listener.listen()

    def read(stream):
        with open(path, "ab", 0) as kept:
            while piece := stream.recv(65_536):
                kept.write(piece)

    def accept():
        while True:
            threading.Thread(target=read, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def start_systemd(directory):
    with open(f"{directory}/systemd.log", "wb") as log:
        systemd = subprocess.Popen([SYSTEMD, "--user"], stdout=log, stderr=log)
    private = Path(directory, "run/systemd/private")
    deadline_s = time.monotonic() + 10
    while not private.exists():
        if systemd.poll() is not None or time.monotonic() > deadline_s:
            sys.stderr.write("systemd does not start in these namespaces\n")
            sys.exit(77)
        time.sleep(0.05)
    return systemd


def systemctl(*arguments):
    subprocess.run(["systemctl", "--user", *arguments], check=True, stdout=2)


def shown(name):
    command = ["systemctl", "--user", "show", "-p", name, "--value", "swarmlet"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main_pid():
    return int(shown("MainPID"))


def state():
    return shown("ActiveState")


def pids_of(client):
    return sorted(pid_of(task) for task in wait_running(client, "web", 2))


def facts(client):
    return {"pids": pids_of(client), "state": state()}


if __name__ == "__main__":
    trial(sys.argv[1])

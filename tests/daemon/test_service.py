"""The daemon as systemd runs it: what the unit says is done to it, and its tasks stay.

No systemd is needed: this module reads the printed unit and does what systemd.service(5) says.
"""

import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from swarmlet.api.listener import SHUTDOWN_TIMEOUT_S
from swarmlet.cli.unit import STOP_TIMEOUT_S
from swarmlet.core.service import EXIT_STOPPED
from swarmlet.daemon.notify import notifier
from swarmlet.daemon.swarm_node import STOP_WAIT_S
from tests.daemon.harness import (
    ANSWERS_WITHIN_S,
    Daemon,
    clean_up,
    pid_of,
    service,
    wait_for,
    wait_running,
)

RESTARTS = int(os.environ.get("SWARMLET_KILLS", "8"))


def printed_unit(directory):
    command = [sys.executable, "-m", "swarmlet", "daemon", "install", "--print"]
    options = ["--data-dir", f"{directory}/data", "--host", f"unix://{directory}/s.sock"]
    ran = subprocess.run(
        [*command, *options, "--runtime", "process"], check=True, capture_output=True, text=True
    )
    return ran.stdout


def settings_of(unit):
    lines = [line for line in unit.splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


class Systemd(Daemon):
    """Runs a daemon as its unit says: the command, who is signalled, when it is restarted."""

    def __init__(self, directory):
        super().__init__(directory)
        self.unit = settings_of(printed_unit(directory))
        self.notify_path = f"{directory}/notify"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(self.notify_path)
        self.notify.settimeout(ANSWERS_WITHIN_S)

    def command(self):
        return shlex.split(self.unit["ExecStart"].replace("$$", "$").replace("%%", "%"))

    def start(self):
        environment = {"NOTIFY_SOCKET": self.notify_path, "PATH": os.environ["PATH"]}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=environment,
            )
        assert self.heard().startswith("READY=1\n")
        return self

    def heard(self):
        return self.notify.recv(4096).decode()

    def signal_main(self, number):
        """KillMode=process: nobody but the main process hears it."""
        assert self.unit["KillMode"] == "process"
        self.process.send_signal(number)
        self.process.wait(float(self.unit["TimeoutStopSec"]))

    def is_restarted(self):
        prevented = [int(code) for code in self.unit["RestartPreventExitStatus"].split()]
        return self.unit["Restart"] == "always" and self.process.returncode not in prevented


@pytest.fixture
def systemd(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("s"))
    os.chmod(directory, 0o755)
    running = Systemd(directory)
    try:
        yield running.start()
    finally:
        clean_up(running)
        running.notify.close()


def test_ready_is_said_when_the_api_answers_and_stopping_before_the_end(systemd):
    assert systemd.client().call("GET", "/_ping")
    systemd.signal_main(signal.SIGTERM)
    assert systemd.heard().startswith("STOPPING=1\n")
    assert systemd.process.returncode == 0


def test_tasks_stay_where_they_were_however_the_daemon_is_killed_and_restarted(systemd):
    client, rng, numbers = systemd.init(), random.Random(3), (signal.SIGKILL, signal.SIGTERM)
    client.post("/services/create", service("web", replicas=3))
    before = {task["ID"]: pid_of(task) for task in wait_running(client, "web", 3)}
    swarm = client.get("/swarm")["ID"]
    kept = []
    for turn in range(RESTARTS):
        name = f"kept-{turn}"
        client.post("/configs/create", {"Name": name, "Data": "eA=="})
        kept.append(name)
        systemd.signal_main(numbers[turn % 2])
        assert all(Path(f"/proc/{pid}").exists() for pid in before.values())
        assert systemd.is_restarted()
        while pending(systemd.notify):  # what the one that ended said
            pass
        systemd.start()
        client = systemd.client()
        assert client.get("/swarm")["ID"] == swarm
        assert {c["Spec"]["Name"] for c in client.get("/configs")} == set(kept)
        time.sleep(rng.uniform(0, 0.1))
    assert {task["ID"]: pid_of(task) for task in wait_running(client, "web", 3)} == before
    everything = [task["ID"] for task in client.get("/tasks")]
    assert sorted(everything) == sorted(before)
    client.post("/services/web/update?version=" + version_of(client), service("web", replicas=1))
    wait_running(client, "web", 1)


def version_of(client):
    return str(client.get("/services/web")["Version"]["Index"])


def pending(listener):
    """The next message that is there already, empty where there is none."""
    listener.setblocking(False)
    try:
        return listener.recv(4096)
    except BlockingIOError:
        return b""
    finally:
        listener.settimeout(ANSWERS_WITHIN_S)


def test_daemon_that_was_told_to_stop_is_left_stopped_but_not_one_that_was_terminated(systemd):
    stop = [sys.executable, "-m", "swarmlet", "--host", systemd.socket, "daemon", "stop"]
    subprocess.run(stop, check=True, capture_output=True)
    assert systemd.process.wait(ANSWERS_WITHIN_S) == EXIT_STOPPED
    assert str(EXIT_STOPPED) in systemd.unit["SuccessExitStatus"].split()
    assert not systemd.is_restarted()
    while pending(systemd.notify):
        pass
    systemd.start()
    systemd.signal_main(signal.SIGTERM)
    assert systemd.is_restarted()


def test_neither_task_nor_supervisor_can_speak_to_systemd_in_the_daemons_name(systemd):
    client = systemd.init()
    client.post("/services/create", service("web"))
    pid = pid_of(wait_running(client, "web", 1)[0])
    supervisor = int(Path(f"/proc/{pid}/status").read_text().split("PPid:")[1].split()[0])
    assert supervisor != systemd.process.pid
    for each in (pid, supervisor):
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{each}/environ").read_bytes()


def test_unit_gives_the_daemon_more_time_than_it_takes():
    assert STOP_TIMEOUT_S > 2 * (STOP_WAIT_S + SHUTDOWN_TIMEOUT_S)


def test_notifier_speaks_to_a_path_and_to_an_abstract_address(tmp_path):
    for address, bound in ((str(tmp_path / "n"), str(tmp_path / "n")), ("@swt-n", "\0swt-n")):
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
            listener.bind(bound)
            environment = {"NOTIFY_SOCKET": address, "X": "y"}
            tell = notifier(environment)
            assert tell is not None
            tell("READY=1")
            assert listener.recv(100) == b"READY=1"
            assert environment == {"X": "y"}


def test_notifier_is_none_without_a_service_manager():
    assert notifier({}) is None


def test_notifier_logs_where_nobody_listens(tmp_path, caplog):
    tell = notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert tell is not None
    tell("READY=1")
    assert [record.message for record in caplog.records] == ["daemon.not_notified"]


def test_wrong_option_ends_with_the_code_that_is_not_restarted(systemd):
    ran = subprocess.run([*systemd.command(), "--nope"], capture_output=True, check=False)
    assert str(ran.returncode) in systemd.unit["RestartPreventExitStatus"].split()
    wait_for(systemd.answers, what="the first daemon, untouched")

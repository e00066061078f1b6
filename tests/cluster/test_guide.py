"""The page about five nodes on one machine, typed word for word; and what is left after `down`."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.cluster.backends import NAMES
from tests.cluster.lasting import RECORD
from tests.cluster.page import commands_of, nodes_in, typed

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def shell(tmp_path):
    """Types a command in a terminal in the source's folder; what it says. Nothing of it concerns
    another cluster that a person has."""
    environment = {
        **os.environ,
        "SWARMLET_CLUSTER": str(tmp_path / "cluster"),
        "SWARMLET_CERTS": str(tmp_path / "certs"),
    }

    def type_in(command: str) -> str:
        return typed(command, environment)

    yield type_in
    with contextlib.suppress(AssertionError):
        type_in("scripts/cluster down")


def record_of(tmp_path: Path) -> dict[str, str]:
    return json.loads((tmp_path / "cluster" / RECORD.name).read_text())


def test_page_in_one_command_is_true_in_namespaces(shell, tmp_path):
    commands = commands_of("In one command")
    assert commands[0] == "scripts/cluster up"
    assert nodes_in(shell(f"{commands[0]} --backend namespaces")) == set(NAMES)
    directory = record_of(tmp_path)["directory"]
    said = {command: shell(command) for command in commands[1:]}
    assert nodes_in(said["scripts/cluster exec manager1 swarmlet node ls"]) == set(NAMES)
    assert "web.10" in said["scripts/cluster exec manager1 swarmlet service ps web"]
    assert "Every task runs once" in said["scripts/cluster chaos --rounds 2"]
    assert "is gone" in said["scripts/cluster down"]
    assert left_of(directory) == []


def test_down_removes_what_a_crash_of_every_daemon_and_of_the_switch_left(shell, tmp_path):
    shell("scripts/cluster up --backend namespaces")
    directory = record_of(tmp_path)["directory"]
    for pid in processes_naming(os.path.basename(directory)):
        os.kill(pid, signal.SIGKILL)
    shell("scripts/cluster down")
    assert left_of(directory) == []
    assert "no cluster" in shell("scripts/cluster down")


def processes_naming(word: str) -> list[int]:
    """Those whose command line has it, this program's own left out."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and word.encode() in Path("/proc", name, "cmdline").read_bytes():
                found.append(int(name))
    return [pid for pid in found if pid != os.getpid()]


def left_of(directory: str) -> list[str]:
    """Processes, namespaces and files of a cluster."""
    stem = os.path.basename(directory)
    left = [f"process {pid}" for pid in processes_naming(stem)]
    left += [f"namespace {name}" for name in os.listdir("/run/netns") if name.startswith(stem)]
    return left + ([directory] if os.path.exists(directory) else [])

"""Which runtime a daemon takes, where no Docker Engine is about."""

import asyncio

import pytest

from swarmlet.core.errors import InvalidArgumentError, SwarmStateError, UnsupportedError
from swarmlet.core.paths import DOCKER_HOST
from swarmlet.daemon.data_dir import DataDir
from swarmlet.daemon.runtimes import Runtimes, docker_host
from swarmlet.daemon.settings import Settings
from swarmlet.env.real import real_env
from tests.daemon.test_parts import FILE, opened

OWN = "/tmp/own.sock"
HOSTS = [
    ("", "", DOCKER_HOST),
    ("", "tcp://10.0.0.1:2375", "tcp://10.0.0.1:2375"),
    ("unix:///a.sock", "unix:///b.sock", "unix:///a.sock"),
    ("", f"unix://{OWN}", DOCKER_HOST),
    ("", f"unix:///tmp/../tmp/{OWN.rpartition('/')[2]}", DOCKER_HOST),
]
NOWHERE = "unix:///nowhere/docker.sock"


@pytest.mark.parametrize(("option", "variable", "chosen"), HOSTS)
def test_docker_host_is_the_option_then_the_variable_then_dockers_own(option, variable, chosen):
    settings = Settings(
        data_dir="/d", socket_path=OWN, docker_host=option, docker_host_variable=variable
    )
    assert docker_host(settings) == chosen


def test_docker_host_that_is_this_very_daemon_is_refused():
    with pytest.raises(InvalidArgumentError, match="not of a Docker Engine"):
        docker_host(Settings(data_dir="/d", socket_path=OWN, docker_host=f"unix://{OWN}"))


def chosen_at_start(data: DataDir, runtime: str) -> str:
    settings = Settings(data_dir=data.path, socket_path=OWN, runtime=runtime, docker_host=NOWHERE)
    return asyncio.run(Runtimes(real_env(), data, settings).at_start()).name


@pytest.mark.parametrize(
    ("asked", "chosen"), [("auto", "process"), ("process", "process"), ("docker", "docker")]
)
def test_daemon_in_no_swarm_takes_what_was_asked_for_or_what_there_is(tmp_path, asked, chosen):
    assert chosen_at_start(opened(tmp_path), asked) == chosen


def test_oci_is_not_part_of_this_release(tmp_path):
    with pytest.raises(UnsupportedError, match="oci"):
        chosen_at_start(opened(tmp_path), "oci")


def test_daemon_in_a_swarm_takes_what_was_kept_and_refuses_another(tmp_path):
    data = opened(tmp_path)
    data.prepare_swarm(FILE)
    data.enter_swarm()
    assert chosen_at_start(data, "auto") == chosen_at_start(data, "process") == FILE.runtime
    with pytest.raises(SwarmStateError, match="entered its swarm with the process runtime"):
        chosen_at_start(data, "docker")


def test_daemon_that_left_tasks_behind_takes_the_runtime_that_has_them(tmp_path):
    data = opened(tmp_path)
    data.note_leftover("docker")
    assert chosen_at_start(data, "auto") == "docker"
    data.note_leftover("")
    assert chosen_at_start(data, "auto") == "process"

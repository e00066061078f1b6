"""The same words to `docker` and to `swarmlet`, against one daemon: they print the same."""

import os
import subprocess
import sys

import pytest

from tests.daemon.harness import running_daemon, service, wait_running
from tests.docker.cli import NEEDS_CLI

pytestmark = [*NEEDS_CLI, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Runs a line with both: what each printed, and its exit code. Spaces part the words, `_` is a
    space in one; names in capitals stand for the node's."""
    config = tmp_path_factory.mktemp("docker")
    with running_daemon("--runtime", "process") as daemon:
        client = daemon.init()
        client.post("/services/create", service("web", replicas=3))
        wait_running(client, "web", 3)
        (node,) = client.get("/nodes")
        docker = {**os.environ, "DOCKER_HOST": f"unix://{daemon.socket}", "DOCKER_CONFIG": config}
        ours = [sys.executable, "-m", "swarmlet", "--host", daemon.socket]
        names = {"ID": node["ID"], "HOST": node["Description"]["Hostname"]}

        def run(line: str):
            words = [names.get(word, word).replace("_", " ") for word in line.split(" ")]
            said = [
                subprocess.run(command, capture_output=True, text=True, env=env, check=False)
                for command, env in (
                    (["docker", *words], docker),
                    ([*ours, *words], dict(os.environ)),
                )
            ]
            return [(one.stdout, one.returncode) for one in said], [one.stderr for one in said]

        yield run


@pytest.mark.parametrize(
    "line",
    [
        "node ls",
        "node ls -q",
        "node ls --format json",
        "node ls --format table_{{.ID}}\\t{{.Self}}\\t{{.TLSStatus}}",
        "node ls --format {{.Hostname}}:{{.Availability}}:{{.ManagerStatus}}:{{.EngineVersion}}",
        "node ls -q --filter role=worker",
        "node ls -q --filter role=manager",
        "node ls -q --filter membership=accepted",
        "node ls -q --filter membership=pending",
        "node ls -q --filter name=HOST",
        "node ls -q --filter node.label=none",
        "node ls -q --filter label=none=x",
        "node inspect self",
        "node inspect HOST --format {{.Spec.Role}}",
        "node inspect ID --format {{json_.Spec.Labels}}",
        "node ps --no-resolve",
        "node ps -q",
        "node ps self -q --no-trunc",
        "node ps --format {{.Name}}:{{.Node}}:{{.DesiredState}}",
        "node ps -q --filter desired-state=shutdown",
        "node ps -q --filter name=web.1",
        "node promote HOST",
        "node update --label-add a=b --label-add c HOST",
        "node update --label-add d=e=f HOST",
        'node inspect HOST --format {{index_.Spec.Labels_"d"}}',
        "node update --label-add a=b --label-rm a HOST",
        "node update --availability pause HOST",
        "node ls --format {{.Availability}}",
        "node update --availability active ID",
    ],
)
def test_both_print_the_same(both, line):
    (docker, ours), errors = both(line)
    assert ours == docker, errors


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("node ls --filter role=x", "Invalid role filter: 'x'"),
        ("node ls --filter foo=bar", "invalid filter 'foo'"),
        ("node inspect nobody", "node nobody not found"),
        ("node ps nobody", "node nobody not found"),
        ("node promote nobody", "node nobody not found"),
        ("node demote HOST", "attempting to demote the last manager of the swarm"),
        ("node update --role worker HOST", "attempting to demote the last manager of the swarm"),
        ("node update --label-rm zzz HOST", "key zzz doesn't exist in node's labels"),
        ("node rm HOST", "must be demoted to worker before removal"),
        ("node rm --force HOST", "must be demoted to worker before removal"),
        ("node rm nobody none", "node none not found"),
        ("swarm leave", "participating as a manager"),
    ],
)
def test_both_refuse_in_the_same_words(both, line, words):
    (docker, ours), errors = both(line)
    assert ours == docker, errors
    assert ours[1] == 1
    assert [words in error for error in errors] == [True, True]

"""A scripted daemon and a way to run the command against it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from swarmlet.cli.main import main
from tests.cli import recorded
from tests.cli.daemon import ScriptedDaemon


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def daemon(tmp_path) -> Iterator[ScriptedDaemon]:
    scripted = ScriptedDaemon(str(tmp_path / "d.sock"))
    stop = scripted.start()
    yield scripted
    stop()


@pytest.fixture
def swarmlet(daemon, capsys) -> Run:
    def run(*arguments: str) -> Result:
        code = main(["--host", daemon.socket_path, *arguments])
        seen = capsys.readouterr()
        return Result(code, seen.out, seen.err)

    return run


@pytest.fixture
def swarm(daemon) -> ScriptedDaemon:
    """The daemon of a manager that is alone."""
    spec = {"Name": "default", "Orchestration": {"TaskHistoryRetentionLimit": 5}, "CAConfig": {}}
    tokens = {"Worker": recorded.TOKEN, "Manager": recorded.TOKEN + "m"}
    known = {"Version": {"Index": 11}, "Spec": spec, "JoinTokens": tokens}
    daemon.script = {
        "GET /_ping": (200, None),
        "GET /info": (200, recorded.INFO),
        "POST /swarm/init": (200, recorded.NODE_ID),
        "POST /swarm/leave": (200, None),
        "POST /swarm/update": (200, None),
        f"GET /nodes/{recorded.NODE_ID}": (200, recorded.NODE),
        "GET /nodes": (200, [recorded.NODE]),
        "GET /swarmlet/v1/members": (200, recorded.GROUP),
        "GET /swarm": (200, {**known, "TLSInfo": recorded.TLS_INFO}),
    }
    return daemon

"""A scripted daemon and a way to run the command against it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from swarmlet.cli.main import main
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

"""The docker CLI on PATH, whatever its version, pointed at one daemon."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NEEDS_CLI = (
    pytest.mark.docker_cli,
    pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI on PATH"),
)
DEADLINE_S = 90


class Docker:
    """`docker("node", "ls")` runs it and returns what it said, stderr behind stdout."""

    def __init__(self, host: str, config: str) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": config,
            "DOCKER_CONFIG": config,
            "DOCKER_HOST": host,
        }

    def __call__(self, *words: str, code: int = 0, stdin: str = "") -> str:
        done = subprocess.run(
            ["docker", *words],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == code, f"docker {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @contextmanager
    def streaming(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """A command that goes on until the end of the block."""
        process = subprocess.Popen(
            ["docker", *words], env=self.environment, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(DEADLINE_S)
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def docker_of(socket: str) -> Iterator[Docker]:
    """The CLI for the daemon that listens there, with a configuration of its own."""
    with tempfile.TemporaryDirectory(prefix="swarmlet-cli-") as config:
        yield Docker(f"unix://{socket}", config)

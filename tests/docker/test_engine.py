"""What becomes of the command of `python -m tests.docker.engine`, where there is no engine."""

import os
import signal
import subprocess
import sys

import pytest

COMMAND = """
import signal, sys, time
try:
    print("at work", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    print("cleaned up", flush=True)
"""


def begin(*command: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PATH": ""}  # which has no dockerd
    return subprocess.Popen(
        [sys.executable, "-m", "tests.docker.engine", sys.executable, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )


def test_exit_code_is_the_commands():
    with begin("-c", "raise SystemExit(7)") as process:
        assert process.wait(30.0) == 7


@pytest.mark.parametrize("ended_by", ["a supervisor", "the terminal"])
def test_command_cleans_up_before_the_engine_goes(ended_by: str):
    with begin("-c", COMMAND) as process:
        assert process.stdout.readline() == "at work\n"
        if ended_by == "a supervisor":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=30.0)
        assert said == "cleaned up\n"
        assert process.returncode in (-signal.SIGINT, 128 + signal.SIGTERM)

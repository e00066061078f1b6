"""Other programs the CLI asks: systemctl, journalctl, and swarmlet itself."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

CODE_NOT_RUN: Final = 127  # as a shell has it: there is no such program
CODE_TIMED_OUT: Final = 124  # timeout(1)


class Ran(NamedTuple):
    """How a program ended; both outputs as text."""

    code: int
    out: str
    err: str


def run_program(
    command: Sequence[str], *, timeout_s: float, environment: Mapping[str, str] | None = None
) -> Ran:
    """Run it in `/` to its end, without a terminal; never raises for what it does."""
    if shutil.which(command[0]) is None:
        return Ran(CODE_NOT_RUN, "", f"there is no program {command[0]} here")
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env=environment,
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ran(CODE_TIMED_OUT, "", f"{command[0]} did not end within {timeout_s:g} s")
    return Ran(
        ended.returncode,
        ended.stdout.decode("utf-8", "replace"),
        ended.stderr.decode("utf-8", "replace"),
    )

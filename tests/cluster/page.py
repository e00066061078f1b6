"""The page about five nodes on one machine, as somebody types it who reads it."""

import re
import subprocess

from tests.cluster.backends import NAMES
from tests.cluster.compose import ROOT

PAGE = ROOT / "docs/guide/test-cluster.md"
COMMAND_WITHIN_S = 300.0


def commands_of(heading: str) -> list[str]:
    """The commands of that section's first block."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1]
    block = re.search(r"(?:^    .+\n)+", section, re.M)
    assert block is not None
    return [line.strip() for line in block[0].splitlines()]


def typed(command: str, environment: dict[str, str]) -> str:
    """What it says in a terminal, in the source's folder. It has to succeed."""
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", command, "/dev/null"],
        cwd=ROOT,
        env={**environment, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    return done.stdout.replace("\r\n", "\n")


def nodes_in(said: str) -> set[str]:
    return {name for name in NAMES if name in said}

"""Every recorded command in the order of the recording, against one daemon: a test a command."""

import asyncio
import re

import pytest

from tests.recorded.replay import Replay, load
from tests.recorded.swarm import whole_daemon

COMMANDS = load("commands.jsonl")
PROBES = load("probes.jsonl")
EVERYWHERE = (
    r"\.remedy: missing but",  # every error says what to try
    r"\.code: missing but",  # and what it is, for programs
    r"Engine\.Labels: missing but",  # the node's runtime
    r"Builder-Version: 2 but 1",
    r"Docker-Experimental: true but false",
    r"/distribution/\S+: (status: 500 but 501|\.message: )",  # the fake runtime knows no registry
)
ON_PURPOSE = {
    "version": (
        r"Swarm: inactive but active/manager",  # recorded before the others
        r"\.(ApiVersion|MinAPIVersion|Version|KernelVersion|Platform\.Name): ",
        r"\.(BuildTime|GitCommit|GoVersion): .* but \"\"",  # nothing here was built so
        r"\.Components: 4 items but 2",  # the engine, and the runtime
        r"\.Experimental: true but missing",
    ),
    "service-inspect": (r"RollbackConfig\.Monitor: 5000000000 but 30000000000",),
    "service-inspect-pretty": (r"RollbackConfig\.Monitor: 5000000000 but 30000000000",),
    "20 bad json": (r"unexpected EOF.* but .*unexpected end of the input",),
    "26 bad constraint": (r"status: 201 but 400", r"unknown key", r"\.(ID|Warnings): "),
    "32 defaults": (r"Config\.Monitor: 5000000000 but 30000000000",),
    "58 bad b64": (r"Data must be base64 text",),
    "83 too old": (  # 1.39 is served
        r": status: 400 but 200",
        r": \.message: .*client version 1.39 is too old.* but missing",
        r": \.\w+: missing but ",
    ),
    "84 too new": (r"Maximum supported API version is 1.52",),
}
"""Differences that docs/compatibility.md and docs/guide/differences.md name: what is left over is
a fault."""


def is_on_purpose(name: str, difference: str) -> bool:
    allowed = (*EVERYWHERE, *ON_PURPOSE.get(name, ()))
    return any(re.search(one, difference) for one in allowed)


async def replayed(recording: list[dict]) -> dict[str, list[str]]:
    async with whole_daemon() as (_, client):
        replay = Replay(client, is_on_purpose)
        return {one["name"]: await replay.run(one) for one in recording}


@pytest.fixture(scope="module")
def of_commands():
    return asyncio.run(replayed(COMMANDS))


@pytest.fixture(scope="module")
def of_probes():
    return asyncio.run(replayed(PROBES))


@pytest.mark.parametrize("name", [command["name"] for command in COMMANDS])
def test_command_is_answered_as_by_docker(of_commands, name):
    assert of_commands[name] == []


@pytest.mark.parametrize("name", [probe["name"] for probe in PROBES])
def test_odd_request_is_answered_as_by_docker(of_probes, name):
    assert of_probes[name] == []

"""Managers announce themselves and are found, with real multicast DNS."""

import asyncio
import os
import subprocess
import sys
from contextlib import AsyncExitStack

import pytest

from swarmlet.wire import discovery
from swarmlet.wire.discovery import announce, find

LOOPBACK = ("127.0.0.1",)


async def test_managers_are_found_while_they_announce(monkeypatch):
    monkeypatch.setattr(discovery, "SETTLE_S", 0.3)
    tasks = len(asyncio.all_tasks())
    async with AsyncExitStack() as stack:
        for port, hosts in ((23771, ["127.0.0.1"]), (23772, ["127.0.0.1", "fd00::5", "fe80::5"])):
            await stack.enter_async_context(
                announce(hosts, port, cluster_id="c", node_id=f"node{port}", interfaces=LOOPBACK)
            )
        found = await find(5.0, interfaces=LOOPBACK)
        assert found == ["127.0.0.1:23771", "127.0.0.1:23772", "[fd00::5]:23772"]
    assert await find(0.5, interfaces=LOOPBACK) == []
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == tasks


async def test_a_crowd_of_responders_is_cut_off(monkeypatch):
    monkeypatch.setattr(discovery, "ADDRESSES_MAX", 3)
    hosts = [f"127.0.0.{n}" for n in range(1, 9)]
    async with announce(hosts, 2377, cluster_id="c", node_id="crowd", interfaces=LOOPBACK):
        found = await find(5.0, interfaces=LOOPBACK)
    assert found == ["127.0.0.1:2377", "127.0.0.2:2377", "127.0.0.3:2377"]


def test_nobody_pays_for_what_is_not_used():
    code = "import sys, swarmlet.wire.discovery; sys.exit('zeroconf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ANNOUNCE = """
import asyncio
from swarmlet.wire.discovery import announce
async def main():
    async with announce(["10.99.0.1", "fd99::1"], 2377, cluster_id="c", node_id="far"):
        print("up", flush=True)
        await asyncio.sleep(30)
asyncio.run(main())
"""
FIND = """
import asyncio
from swarmlet.core.errors import UnavailableError
from swarmlet.wire.discovery import find
try:
    print(asyncio.run(find(8.0)))
except UnavailableError as error:
    print(error.message, error.remedy)
"""
TWO_HOSTS = """
set -e
unshare --net sleep 60 & far=$!
until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
ip link add near type veth peer name far netns $far
ip addr add 10.99.0.2/24 dev near; ip addr add fd99::2/64 dev near nodad; ip link set near up
nsenter --net --target $far sh -c '
  ip addr add 10.99.0.1/24 dev far; ip addr add fd99::1/64 dev far nodad; ip link set far up'
up=$(mktemp); nsenter --net --target $far "$1" -c "$2" > "$up" &
until [ -s "$up" ]; do sleep 0.02; done
rm "$up"; "$1" -c "$3"
"""


def in_network(script: str, *arguments: str) -> str:
    apart = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    ran = subprocess.run(
        [*apart, "sh", "-c", script, "sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return ran.stdout + ran.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_manager_on_another_host_is_found():
    assert in_network(TWO_HOSTS, sys.executable, ANNOUNCE, FIND) == (
        "['10.99.0.1:2377', '[fd99::1]:2377']\n"
    )


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_host_without_a_network_says_so():
    said = in_network('"$1" -c "$2"', sys.executable, FIND)
    assert "Give a manager's address instead." in said

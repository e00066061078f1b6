"""Ten thousand connections that never become one, from a host that wants to do harm."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.hosts import network
from tests.daemon.harness import wait_for

COUNT = 10_000
MEMORY_MAX_KIB = 32 * 1024

FLOOD = f"""
import contextlib, resource, selectors, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
host, kind = sys.argv[1], sys.argv[2]
words = dict(silent=b"", hello=b"\\x16\\x03\\x01\\x02\\x00\\x01\\x00", garbage=b"\\x00 what?\\n\\n")
opened = []
for number in range({COUNT}):
    one = socket.socket()
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        one.connect((host, 2377))
    opened.append(one)
    if number % 50 == 49:
        time.sleep(0.005)
        for sent in opened[-100:-50]:
            with contextlib.suppress(OSError):
                sent.send(words[kind])
print("flooded", flush=True)
sys.stdin.read()
"""


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.parametrize("kind", ["silent", "hello", "garbage"])
def test_flood_of_half_open_connections_costs_little_and_shuts_nobody_else_out(kind):
    with network("m1", "w1", "evil") as net:
        manager = net["m1"].start()
        manager.init()
        net["w1"].start()
        assert manager.process is not None
        before_kib = resident_kib(manager.process.pid)
        flood = net["evil"].inside(sys.executable, "-c", FLOOD, manager.address, kind)
        with subprocess.Popen(flood, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attacker:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == b"flooded\n"
            net["w1"].join(manager)
            wait_for(
                lambda: (
                    [n["Status"]["State"] for n in manager.client().get("/nodes")]
                    == ["ready", "ready"]
                ),
                what="the good node to be ready",
            )
            during_kib = resident_kib(manager.process.pid)
            attacker.communicate(b"", timeout=30)
        assert during_kib - before_kib < MEMORY_MAX_KIB

"""The hosts themselves: what the other tests here stand on."""

import subprocess
import time

import pytest

from tests.cluster.hosts import Network, faketime, network


@pytest.fixture(scope="module")
def net():
    with network("a", "b", "c") as found:
        yield found


@pytest.fixture(autouse=True)
def _healed(net: Network):
    yield
    net.heal()


def reaches(
    net: Network, source: str, target: str, *, v6: bool = False, limit_s: float = 15.0
) -> float | None:
    """Seconds a datagram took to the other host, None where none arrived within the limit."""
    address = net[target].address6 if v6 else net[target].address
    receiver = net[target].inside("python3", "-c", RECEIVE, address, str(limit_s))
    with subprocess.Popen(receiver, stdout=subprocess.PIPE, text=True) as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "listening\n"
        sent_s = time.monotonic()
        net[source].run("python3", "-c", SEND, address)
        heard = listening.stdout.readline()
    return float(heard) - sent_s if heard else None


RECEIVE = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM); s.bind((sys.argv[1], 9000))
s.settimeout(float(sys.argv[2]))
print("listening", flush=True)
try: s.recv(9); print(time.monotonic(), flush=True)
except TimeoutError: pass
"""
SEND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (sys.argv[1], 9000))
"""


@pytest.mark.parametrize("v6", [False, True])
def test_all_hosts_see_each_other(net, v6):
    for source, target in (("a", "b"), ("b", "c"), ("c", "a")):
        assert reaches(net, source, target, v6=v6) is not None


def test_cut_host_hears_nobody_until_healed(net):
    net.cut("a")
    assert reaches(net, "b", "a", limit_s=1.0) is None
    assert reaches(net, "b", "c") is not None
    net.heal()
    assert reaches(net, "b", "a") is not None


def test_one_way_cut_leaves_the_other_way(net):
    assert reaches(net, "a", "b") is not None  # they know each other's MAC addresses now
    net.cut_one_way("a", "b")
    assert reaches(net, "a", "b", limit_s=1.0) is None
    assert reaches(net, "b", "a") is not None


def test_delay_holds_every_frame_up(net):
    assert reaches(net, "a", "b") is not None
    quick_s = reaches(net, "a", "b")
    net.delay(300)
    slow_s = reaches(net, "a", "b")
    assert slow_s is not None
    assert quick_s is not None
    assert slow_s >= 0.3


def test_loss_of_everything_is_a_cut(net):
    net.lose(100)
    assert reaches(net, "a", "c", limit_s=1.0) is None


@pytest.mark.skipif(not faketime(), reason="libfaketime is not installed")
def test_clock_offset_is_the_host_s_own(net):
    net["b"].clock_offset_s = 7 * 3600
    try:
        there = float(net["b"].run("date", "+%s").stdout)
    finally:
        net["b"].clock_offset_s = 0.0
    assert there - time.time() == pytest.approx(7 * 3600, abs=5)


def test_each_daemon_runs_on_its_own_host(net):
    for name in ("a", "b"):
        net[name].start()
    assert net["a"].client().get("/info")["Name"] == "a"
    assert net["b"].client().get("/info")["Name"] == "b"
    net["a"].init()
    assert net["a"].client().get("/info")["Swarm"]["NodeAddr"] == net["a"].address

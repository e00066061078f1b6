"""Ways into a swarm, and everything that is none."""

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, Network, faketime, network
from tests.cluster.swarms import (
    is_active,
    join_body,
    leave,
    node_id,
    refused,
    row_of,
    swarm_of,
    token_of,
    update_swarm,
    wait_state,
)
from tests.daemon.harness import ApiError, wait_for

pytestmark = pytest.mark.timeout(120)
JOINERS = ("n1", "n2", "n3", "n4", "n5")
HOUR_S = 3600


@pytest.fixture(scope="module")
def net():
    """`m1` announces its swarm, and so does `alien`, whose swarm is another and speaks IPv6."""
    with network("m1", "alien", *JOINERS) as found:
        for host in found.hosts.values():
            host.start()
        for name, listen in (("m1", "0.0.0.0:2377"), ("alien", "[::]:2377")):
            host = found[name]
            own = host.address if name == "m1" else host.address6
            body = {"ListenAddr": listen, "AdvertiseAddr": own, "Announce": True}
            host.client().post("/swarm/init", body)
        yield found


@pytest.fixture
def manager(net: Network):
    return net["m1"]


@pytest.fixture(autouse=True)
def _all_left(net: Network):
    """Every test begins with joiners that are in no swarm."""
    yield
    for name in JOINERS:
        leave(net[name])
    for manager in (net["m1"], net["alien"]):
        client = manager.client()
        for node in client.get("/nodes"):
            if "ManagerStatus" not in node:
                client.delete(f"/nodes/{node['ID']}?force=1")


def at(host: Host, port: int = 2377) -> str:
    return f"{host.address}:{port}"


def join(host: Host, token: str, *addresses: str, **more) -> None:
    host.client().post("/swarm/join", join_body(host, token, *addresses, **more))


def make_token(manager: Host, **spec) -> str:
    return manager.client().post("/swarmlet/v1/join-tokens", {"Role": "worker", **spec})["Token"]


# Ways in -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["10.97.0.1", "10.97.0.1:2377", "m1", "m1.test:2377"])
def test_manager_is_named_by_address_or_name_with_or_without_a_port(net, manager, address):
    join(net["n1"], token_of(manager), address)
    node = row_of(manager, node_id(net["n1"]))
    assert node["Status"] == {"State": "ready", "Addr": net["n1"].address}
    assert node["Description"]["Hostname"] == "n1"


def test_nodes_meet_over_ipv6_and_over_ipv4_at_the_same_port(net):
    alien, token = net["alien"], token_of(net["alien"])
    join(net["n1"], token, f"[{alien.address6}]:2377", AdvertiseAddr="")
    join(net["n2"], token, at(alien))
    assert row_of(alien, node_id(net["n1"]))["Status"]["Addr"] == net["n1"].address6
    assert row_of(alien, node_id(net["n2"]))["Status"]["State"] == "ready"
    assert swarm_of(net["n1"])["RemoteManagers"][0]["Addr"] == f"[{alien.address6}]:2377"


def test_cli_joins_with_a_token_and_an_address(net, manager):
    token = token_of(manager)
    for name, words in (("n1", (token, at(manager))), ("n2", ("--token", token, at(manager)))):
        done = net[name].swarmlet("join", *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "This node joined a swarm as a worker.\n"
        assert is_active(net[name])


def test_cli_finds_managers_in_the_environment(net, manager):
    net["n1"].variables["SWARMLET_MANAGERS"] = f"10.97.0.77:2377,{at(manager)}"
    try:
        done = net["n1"].swarmlet("join", token_of(manager))
    finally:
        net["n1"].variables.clear()
    assert "joined a swarm as a worker" in done.stdout, done.stderr


def test_cli_finds_the_tokens_swarm_on_the_network_among_liars(net, manager):
    cluster_id = manager.client().get("/swarm")["ID"]
    with liar(net["n3"], cluster_id, net["n3"].address), liar(net["n4"], cluster_id, "10.97.0.2"):
        for name, home in (("n1", manager), ("n2", net["alien"])):
            began_s = time.monotonic()
            done = net[name].swarmlet("join", token_of(home))
            assert "joined a swarm as a worker" in done.stdout, done.stderr
            assert time.monotonic() - began_s < 10.0
            assert row_of(home, node_id(net[name]))["Status"]["State"] == "ready"


LIAR = """
import asyncio, sys
from swarmlet.wire.discovery import announce
async def main():
    async with announce([sys.argv[2]], 2377, cluster_id=sys.argv[1], node_id="liar" + sys.argv[3]):
        print("up", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@contextmanager
def liar(host: Host, cluster_id: str, address: str):
    """On this host something announces a manager of the cluster at an address that is none."""
    command = host.inside(sys.executable, "-c", LIAR, cluster_id, address, host.name)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "up\n"
        try:
            yield
        finally:
            running.kill()


def test_extra_token_gives_its_labels_until_it_is_used_up(net, manager):
    token = make_token(manager, Labels={"zone": "a"}, Uses=2)
    for name in ("n1", "n2"):
        join(net[name], token, at(manager))
        assert row_of(manager, node_id(net[name]))["Spec"]["Labels"] == {"zone": "a"}
    error = refused(net["n3"], token, at(manager))
    assert "used up: it was good for joining 2 times" in error.message
    (row,) = [row for row in manager.client().get("/swarmlet/v1/join-tokens") if row["Uses"] == 2]
    assert row["State"] == "used-up"
    manager.client().delete(f"/swarmlet/v1/join-tokens/{row['ID']}")
    assert is_active(net["n1"])


def test_extra_token_of_three_uses_lets_three_in_when_five_come_at_once(net, manager):
    token = make_token(manager, Uses=3)

    def come(name: str) -> bool:
        with suppress(ApiError):
            join(net[name], token, at(manager))
            return True
        return False

    with ThreadPoolExecutor(len(JOINERS)) as pool:
        assert sum(pool.map(come, JOINERS)) == 3
    assert len(manager.client().get("/nodes")) == 4


# No way in ---------------------------------------------------------------------------------------


def test_token_that_is_wrong_in_any_way_is_refused_with_a_sentence(net, manager):
    right, joiner = token_of(manager), net["n1"]
    rotated = token_of(manager, "Worker")
    update_swarm(manager, {}, rotateWorkerToken="true")
    expired, revoked = make_token(manager, ExpiresIn=1_000_000_000), make_token(manager)
    made_s = time.monotonic()
    newest = manager.client().get("/swarmlet/v1/join-tokens")[-1]["ID"]
    manager.client().delete(f"/swarmlet/v1/join-tokens/{newest}")
    time.sleep(max(0.0, made_s + 1.1 - time.monotonic()))
    digest, secret = right.rsplit("-", 1)
    cases = {
        "rotated": (rotated, "is not (or no longer) valid"),
        "revoked": (revoked, "is not (or no longer) valid"),
        "guessed": (f"{digest}-{'7' * 25}", "is not (or no longer) valid"),
        "expired": (expired, "expired"),
        "truncated": (right[:-4], "invalid join token"),
        "empty": ("", "invalid join token"),
        "of another swarm": (token_of(net["alien"]), "belongs to another swarm"),
        "of another root": (f"SWMTKN-1-{'1' * 50}-{secret}", "belongs to another swarm"),
    }
    for what, (token, sentence) in cases.items():
        began_s = time.monotonic()
        error = refused(joiner, token, at(manager))
        assert sentence in error.message, what
        assert error.remedy, what
        assert not token or token not in str(error) + error.remedy, what
        assert not list(Path(joiner.data, "certificates").glob("*")), what
        assert time.monotonic() - began_s < 2.0, what
    join(joiner, token_of(manager), at(manager))


def test_address_that_is_no_managers_is_said_so(net, manager):
    token, alien = token_of(manager), net["alien"]
    cases = {
        "n1": (at(net["n2"]), "Nothing listens at 10.97.0.4:2377: the connection was refused"),
        "n2": (at(alien, 8080), "What listens at 10.97.0.2:8080 is no swarmlet manager"),
        "n3": (at(alien, 8443), "What listens at 10.97.0.2:8443 is no swarmlet manager"),
        "n4": ("nobody.test", "The host name in nobody.test:2377 cannot be resolved"),
    }
    with strangers(alien), ThreadPoolExecutor(len(cases) + 1) as pool:
        unreached = pool.submit(lambda: reaches_nobody(net["n5"], token))
        errors = pool.map(lambda name: refused(net[name], token, cases[name][0]), cases)
        for (address, sentence), error in zip(cases.values(), errors, strict=True):
            assert sentence in error.message, address
            assert error.remedy, address
        unreached.result()
    error = refused(net["n1"], token, at(alien))
    assert "belongs to another swarm than the manager at 10.97.0.2:2377" in error.message


def reaches_nobody(host: Host, token: str) -> None:
    """No host has the address: docker's wait, docker's sentence; `info` names the address."""
    with pytest.raises(ApiError, match="Timeout was reached before node joined"):
        host.client().post("/swarm/join", join_body(host, token, "10.97.0.99"))
    swarm = swarm_of(host)
    assert swarm["LocalNodeState"] == "pending"
    assert "10.97.0.99:2377" in swarm["Error"]


@contextmanager
def strangers(host: Host):
    """A plain HTTP server and a TLS server of another kind."""
    pem = f"{host.directory}/stranger.pem"
    words = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=web")
    made = host.run("openssl", *words, "-keyout", pem, "-out", f"{pem}.crt")
    assert made.returncode == 0, made.stderr
    tls = ("openssl", "s_server", "-quiet", "-www", "-accept", "8443", "-key", pem)
    commands = [
        host.inside(sys.executable, "-m", "http.server", "8080"),
        host.inside(*tls, "-cert", f"{pem}.crt"),
    ]
    quiet = subprocess.DEVNULL
    running = [subprocess.Popen(one, stdout=quiet, stderr=quiet) for one in commands]
    try:
        for port in ("8080", "8443"):
            wait_for(lambda port=port: listens(host, port), what="a stranger")
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def listens(host: Host, port: str) -> bool:
    return f":{port} " in host.run("ss", "-Hltn").stdout


@pytest.mark.skipif(not faketime(), reason="libfaketime is not installed")
@pytest.mark.parametrize("offset_s", [3 * HOUR_S, -3 * HOUR_S])
def test_clocks_hours_apart_are_said_and_joining_works_once_they_agree(net, manager, offset_s):
    host = net["n1"]
    way = "ahead of" if offset_s > 0 else "behind"
    with clock(host, offset_s):
        error = refused(host, token_of(manager), at(manager))
    assert f"{way} the clock of the manager at {at(manager)}" in error.message
    assert "date -u -s @" in error.remedy
    join(host, token_of(manager), at(manager))


@pytest.mark.skipif(not faketime(), reason="libfaketime is not installed")
@pytest.mark.parametrize("offset_s", [0.75 * HOUR_S, -0.75 * HOUR_S])
def test_clock_that_is_less_than_an_hour_wrong_joins_and_works(net, manager, offset_s):
    with clock(net["n1"], offset_s):
        join(net["n1"], token_of(manager), at(manager))
        own = node_id(net["n1"])
        net["n1"].stop()
        net["n1"].start()
        wait_state(manager, own, "ready")


@contextmanager
def clock(host: Host, offset_s: float):
    """The host's daemon has this clock, meanwhile."""
    host.stop()
    host.clock_offset_s = offset_s
    host.start()
    try:
        yield
    finally:
        host.stop()
        host.clock_offset_s = 0.0
        host.start()


# Interrupted -------------------------------------------------------------------------------------


def test_join_killed_at_random_moments_goes_on_and_makes_one_node(net, manager):
    rng, host, done = random.Random(7), net["n1"], 0
    for _ in range(8):
        body = join_body(host, token_of(manager), at(manager))
        asking = threading.Thread(target=asked, args=(host, body), daemon=True)
        asking.start()
        time.sleep(rng.uniform(0.005, 0.2))
        host.kill()
        asking.join()
        host.start()
        if swarm_of(host)["LocalNodeState"] == "inactive":  # nothing was written down yet
            join(host, token_of(manager), at(manager))
        else:
            done += 1
        wait_for(lambda: is_active(host), what="the join is done")
        wait_state(manager, node_id(host), "ready")
        assert len(manager.client().get("/nodes")) == 2
        leave(host, manager)
    assert done > 0


def asked(host: Host, body: dict) -> None:
    with suppress(ApiError, OSError):
        host.client().post("/swarm/join", body)


def test_join_goes_on_when_the_manager_is_killed_and_comes_back(net, manager):
    host, token = net["n1"], token_of(manager)
    manager.kill()
    asking = threading.Thread(
        target=asked, args=(host, join_body(host, token, at(manager))), daemon=True
    )
    asking.start()
    wait_for(lambda: swarm_of(host)["LocalNodeState"] == "pending", what="the join begins")
    manager.start()
    wait_for(lambda: is_active(host), what="the join is done")
    asking.join()

"""Locked managers, as users of swarmlet and of docker meet them."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, network
from tests.cluster.swarms import config, configs_of, form_managers, is_active, swarm_of, token_of
from tests.daemon.harness import ApiError, wait_for

pytestmark = pytest.mark.timeout(180)
NEEDS_CLI = pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI")
LOCKED = "Swarm is encrypted and needs to be unlocked before it can be used."
KEY = re.compile(r"SWMKEY-1-[A-Za-z0-9+/]{43}")


def restart(host: Host) -> None:
    host.kill()
    host.start()


def state(host: Host) -> str:
    return swarm_of(host)["LocalNodeState"]


def files_with(host: Host, *needles: bytes) -> list[str]:
    """Files of the data directory in which any of these can be read."""
    return [
        str(path.relative_to(host.data))
        for path in sorted(Path(host.data).rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


def test_init_with_autolock_restart_unlock_and_everything_is_there():
    with network("m1") as net:
        host = net["m1"].start()
        said = host.swarmlet("init", "--autolock", "--advertise-addr", host.address)
        assert said.returncode == 0, said.stderr
        key = KEY.search(said.stdout)
        assert key is not None
        assert host.swarmlet("unlock-key", "-q").stdout == f"{key[0]}\n"
        secret = b"very secret, nobody is to read this"
        body = {**config("hidden", secret), "Labels": {"marker": "label-that-nobody-reads"}}
        host.client().post("/secrets/create", body)
        host.client().post("/configs/create", config("kept"))
        tokens = [token_of(host, role).encode() for role in ("Worker", "Manager")]
        restart(host)
        assert state(host) == "locked"
        readable = files_with(
            host,
            secret,
            b"label-that-nobody-reads",
            key[0].encode(),
            b"BEGIN PRIVATE KEY",
            b"BEGIN EC PRIVATE KEY",
            *tokens,
        )
        assert readable == []
        listed = host.swarmlet("node", "ls")
        assert listed.returncode == 1
        assert LOCKED in listed.stderr
        assert "swarmlet unlock" in listed.stderr
        assert host.client().get("/_ping") == b"OK"
        wrong = host.swarmlet("unlock", said="SWMKEY-1-" + "A" * 43 + "\n")
        assert wrong.returncode == 1
        assert "invalid key" in wrong.stderr
        malformed = host.swarmlet("unlock", said="open sesame\n")
        assert malformed.returncode == 1
        assert "invalid key string" in malformed.stderr
        assert state(host) == "locked"
        unlocked = host.swarmlet("unlock", said=f"{key[0]}\n")
        assert unlocked.returncode == 0, unlocked.stderr
        assert set(configs_of(host)) == {"kept"}
        again = host.swarmlet("unlock", said=f"{key[0]}\n")
        assert "swarm is not locked" in again.stderr


@pytest.mark.docker_cli
@NEEDS_CLI
def test_docker_cli_locks_unlocks_rotates_and_unlocks_for_good():
    with network("m1") as net:
        host = net["m1"].start()
        host.init()
        docker = docker_of(host)
        shown = docker("swarm", "update", "--autolock=true")
        key = KEY.search(shown)
        assert key is not None
        assert docker("swarm", "unlock-key", "-q").strip() == key[0]
        rotated = KEY.search(docker("swarm", "unlock-key", "--rotate"))
        assert rotated is not None
        assert rotated[0] != key[0]
        assert "true" in docker("info", "--format", "{{.Swarm.Cluster.Spec.EncryptionConfig}}")
        wait_for(lambda: is_sealed(host), what="the key file is sealed")
        restart(host)
        assert LOCKED in host.docker("node", "ls").stderr
        assert "locked" in docker("info", "--format", "{{.Swarm.LocalNodeState}}")
        unlocked = host.docker("swarm", "unlock", said=f"{rotated[0]}\n")
        assert unlocked.returncode == 0, unlocked.stderr
        assert "m1" in docker("node", "ls")
        docker("swarm", "update", "--autolock=false")
        wait_for(lambda: is_open(host), what="the key file is open")
        restart(host)
        wait_for(lambda: is_active(host), what="it is in its swarm without a key")


def docker_of(host: Host) -> Callable[..., str]:
    def docker(*words: str) -> str:
        done = host.docker(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return docker


def is_sealed(host: Host) -> bool:
    return not files_with(host, b"-----BEGIN PRIVATE KEY-----")


def is_open(host: Host) -> bool:
    """The file itself: the one beside it does not count before it has taken its place."""
    key = Path(host.data, "certificates/swarm-node.key").read_bytes()
    return key.startswith(b"-----BEGIN PRIVATE KEY-----")


def test_key_that_was_rotated_while_a_manager_was_down_opens_it_with_the_old_one():
    with network("m1", "m2", "m3") as net:
        form_managers(net)
        old = KEY.search(net["m1"].swarmlet("swarm", "update", "--autolock=true").stdout)
        assert old is not None
        for host in net.hosts.values():
            wait_for(lambda host=host: is_sealed(host), what=f"{host.name} is sealed")
        net["m3"].kill()
        new = KEY.search(net["m2"].swarmlet("unlock-key", "--rotate").stdout)
        assert new is not None
        net["m1"].client().post("/configs/create", config("meanwhile"))
        net["m3"].start()
        refused = net["m3"].swarmlet("unlock", said=f"{new[0]}\n")
        assert refused.returncode == 1
        assert net["m3"].swarmlet("unlock", said=f"{old[0]}\n").returncode == 0
        wait_for(lambda: has(net["m3"], "meanwhile"), what="it has caught up")

        def opens_with_new() -> bool:
            """Stopped before it wrote the file anew, it needs the old one once more."""
            restart(net["m3"])
            if net["m3"].swarmlet("unlock", said=f"{new[0]}\n").returncode == 0:
                return True
            assert net["m3"].swarmlet("unlock", said=f"{old[0]}\n").returncode == 0
            return False

        wait_for(opens_with_new, what="the new key opens it")


def has(host: Host, name: str) -> bool:
    try:
        return name in configs_of(host)
    except ApiError:
        return False


def test_manager_that_joins_a_locked_swarm_never_has_an_open_key_on_its_disk():
    with network("m1", "m2") as net:
        for host in net.hosts.values():
            host.start()
        net["m1"].swarmlet("init", "--autolock", "--advertise-addr", net["m1"].address)
        key = net["m1"].swarmlet("unlock-key", "-q").stdout
        net["m2"].join(net["m1"], "Manager")
        assert is_sealed(net["m2"])
        restart(net["m2"])
        assert state(net["m2"]) == "locked"
        with pytest.raises(ApiError, match="encrypted and locked"):
            net["m2"].client().post("/swarm/leave")
        assert net["m2"].swarmlet("unlock", said=key).returncode == 0
        wait_for(lambda: is_active(net["m2"]), what="it is in its swarm")

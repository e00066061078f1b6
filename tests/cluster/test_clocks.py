"""Certificates over months: hosts whose clocks run ahead, that slept, that were off.

Time only goes forward here: every test begins where the one before it ended.
"""

import time

import pytest

from tests.cluster.hosts import Host, faketime, network
from tests.cluster.swarms import (
    form_swarm,
    is_active,
    lifetime_h,
    node_id,
    serial_of,
    state_of,
    update_swarm,
    wait_state,
)
from tests.daemon.harness import pid_of, running, service, wait_for, wait_running

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not faketime(), reason="libfaketime is not installed"),
]
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400
HOUR_NS = HOUR_S * 10**9
NEW_LEADER_GRACE_S = 10.0  # of a manager that starts, for its nodes to be back
VALIDITY_D = 90  # of a certificate, unless the swarm says otherwise


class World:
    """Hosts and the time that has passed for them."""

    def __init__(self, net):
        self.net, self.now_s = net, 0.0
        self.has_been_replaced = False  # a host was off for so long that its tasks moved
        self.manager: Host = net["m1"]

    def __getitem__(self, name):
        return self.net[name]

    def pass_time(self, seconds, *names):
        """These hosts, or all, are off for so long, and begin again."""
        self.now_s += seconds
        self.bring_here(*(names or self.net.hosts))

    def bring_here(self, *names):
        """Into the present."""
        for name in names:
            if self[name].process.poll() is None:
                self[name].stop()
        for name in names:
            self[name].clock_offset_s = self.now_s
            self[name].start()

    def wait_ready(self, *names):
        for name in names or self.net.hosts:
            host = self[name]
            wait_for(lambda host=host: is_active(host), what=f"{name} in the swarm", limit_s=40)
            wait_state(self.manager, node_id(host), "ready", limit_s=40)


@pytest.fixture(scope="module")
def world():
    with network("m1", "w1", "w2") as net:
        form_swarm(net)
        found = World(net)
        found.manager.client().post("/services/create", service("web", replicas=3))
        wait_running(found.manager.client(), "web", 3)
        yield found


@pytest.fixture(autouse=True)
def _same_tasks(world):
    """Whatever happens to certificates, tasks run on."""
    before = processes(world)
    yield
    world.wait_ready()
    after = processes(world)
    assert after == before or world.has_been_replaced
    world.has_been_replaced = False
    update_swarm(world.manager, {"CAConfig": {"NodeCertExpiry": VALIDITY_D * 24 * HOUR_NS}})


def processes(world):
    tasks = wait_for(
        lambda: len(found := running(world.manager.client(), "web")) == 3 and found,
        what="three running tasks",
    )
    return sorted(pid_of(task) for task in tasks)


def renewed(host, serial):
    wait_for(lambda: serial_of(host) != serial, what="a new certificate", limit_s=30)


def test_certificate_of_an_hour_is_renewed_when_its_time_comes(world):
    update_swarm(world.manager, {"CAConfig": {"NodeCertExpiry": HOUR_NS}})
    count = world.manager.client().get("/swarm")["Spec"]["CAConfig"].get("ForceRotate", 0)
    serials = {name: serial_of(host) for name, host in world.net.hosts.items()}
    update_swarm(world.manager, {"CAConfig": {"ForceRotate": count + 1}})
    for name, host in world.net.hosts.items():
        renewed(host, serials[name])
        assert lifetime_h(host) == pytest.approx(2.0, abs=0.01)  # an hour of it is the past
    wait_for(
        lambda: not world.manager.client().get("/swarm")["RootRotationInProgress"],
        what="the rotation's end",
    )
    serials = {name: serial_of(host) for name, host in world.net.hosts.items()}
    world.pass_time(55 * MINUTE_S)
    for name, host in world.net.hosts.items():
        renewed(host, serials[name])


def test_host_whose_clock_runs_ahead_renews_early_and_stays(world):
    host, serial = world["w1"], serial_of(world["w1"])
    host.stop()
    host.clock_offset_s = world.now_s + 40 * MINUTE_S
    host.start()
    renewed(host, serial)
    world.wait_ready("w1")
    world.bring_here("w1")


def test_manager_that_slept_past_its_certificate_renews_its_own_first(world):
    """Its workers' certificates are good still."""
    update_swarm(world.manager, {"CAConfig": {"NodeCertExpiry": VALIDITY_D * 24 * HOUR_NS}})
    for name in ("w1", "w2"):
        if lifetime_h(world[name]) < 3:
            serial = serial_of(world[name])
            world[name].stop()
            world[name].clock_offset_s = world.now_s + 50 * MINUTE_S
            world[name].start()
            renewed(world[name], serial)
            world.bring_here(name)
    serial = serial_of(world.manager)
    assert lifetime_h(world.manager) < 3
    world.manager.stop()
    began_s = time.monotonic()
    world.pass_time(3 * HOUR_S, "m1")
    assert serial_of(world.manager) != serial
    world.bring_here("w1", "w2")
    world.wait_ready()
    world.has_been_replaced = time.monotonic() - began_s > NEW_LEADER_GRACE_S


def test_whole_swarm_that_slept_past_every_certificate_wakes(world):
    serials = {name: serial_of(host) for name, host in world.net.hosts.items()}
    world.pass_time((VALIDITY_D + 10) * DAY_S)
    world.wait_ready()
    for name, host in world.net.hosts.items():
        assert serial_of(host) != serials[name]
        assert "has expired" not in host.client().get("/info")["Swarm"]["Error"]


def test_worker_that_starts_before_its_sleeping_manager_waits_for_it(world):
    for host in world.net.hosts.values():
        host.stop()
    world.now_s += (VALIDITY_D + 10) * DAY_S
    world.bring_here("w1", "w2")
    assert not is_active(world["w1"])
    began_s = time.monotonic()
    world.bring_here("m1")
    world.wait_ready()
    world.has_been_replaced = time.monotonic() - began_s > NEW_LEADER_GRACE_S


def test_worker_that_was_off_for_months_comes_back_while_others_went_on(world):
    host, serial = world["w1"], serial_of(world["w1"])
    host.stop()
    world.has_been_replaced = True
    for _ in range(2):
        before = {name: serial_of(world[name]) for name in ("m1", "w2")}
        world.pass_time(80 * DAY_S, "m1", "w2")
        for name, old in before.items():
            renewed(world[name], old)
        world.wait_ready("m1", "w2")
    world.bring_here("w1")
    world.wait_ready("w1")
    assert serial_of(host) != serial
    assert state_of(world.manager, node_id(host)) == "ready"


def test_copy_of_a_certificate_that_was_replaced_since_gets_nobody_in(world, tmp_path):
    """An old backup of a worker's disk, brought back after its certificate has expired."""
    host = world["w2"]
    host.stop()
    backup = tmp_path / "w2"
    assert host.run("cp", "-a", host.data, str(backup)).returncode == 0
    serial = serial_of(host)
    host.start()
    world.pass_time(80 * DAY_S)
    world.wait_ready()
    renewed(host, serial)
    host.stop()
    present = tmp_path / "present"
    host.run("mv", host.data, str(present))
    host.run("cp", "-a", str(backup), host.data)
    world.now_s += 20 * DAY_S
    world.bring_here("m1", "w1", "w2")
    wait_for(lambda: "expired" in swarm_error(host), what="the refusal", limit_s=30)
    assert host.client().get("/info")["Swarm"]["LocalNodeState"] == "error"
    assert serial_of(host) == serial
    host.stop()
    host.run("rm", "-rf", host.data)
    host.run("mv", str(present), host.data)
    world.bring_here("w2")
    world.wait_ready()


def swarm_error(host):
    return host.client().get("/info")["Swarm"]["Error"]

"""Swarms that slept past their certificates, and a node that slept too long."""

import asyncio

from tests.daemon.sim_nodes import SimNode
from tests.sim.loop import SimClock, run_sim
from tests.wire.memory_link import MemoryNet

DAY_S = 86_400
EXPIRED_S = 100 * DAY_S  # certificates are for 90 days
TOO_LATE_S = EXPIRED_S + 366 * DAY_S


def run(story):
    clock = SimClock()

    async def whole():
        net = MemoryNet()
        async with asyncio.timeout(TOO_LATE_S * 3):
            await story(clock, *(SimNode(net, host, clock) for host in ("m.x", "w.x")))

    run_sim(clock, whole())


def ends_ms(node):
    return node.state.certificate.ends_ms


def test_swarm_that_slept_past_its_certificates_wakes_again():
    async def story(clock, manager, worker):
        for node in (manager, worker):
            await node.start()
        await manager.init()
        await worker.join(manager)
        for node in (worker, manager):
            await node.stop()
        clock.now_s += EXPIRED_S
        await manager.start()
        assert ends_ms(manager) > clock.wall_ms()
        await worker.start()
        await worker.until("active")
        assert ends_ms(worker) > clock.wall_ms()
        for node in (worker, manager):
            await node.stop()

    run(story)


def test_worker_wakes_before_its_manager_and_waits():
    async def story(clock, manager, worker):
        for node in (manager, worker):
            await node.start()
        await manager.init()
        await worker.join(manager)
        for node in (worker, manager):
            await node.stop()
        clock.now_s += EXPIRED_S
        await worker.start()
        await asyncio.sleep(30)
        assert worker.state.state == "error"
        assert worker.state.error.startswith("Swarm certificates have expired.")
        await manager.start()
        await worker.until("active", 2 * 3600)
        assert worker.state.error == ""
        for node in (worker, manager):
            await node.stop()

    run(story)


def test_node_that_slept_more_than_a_year_longer_says_that_it_must_join_anew():
    async def story(clock, manager, worker):
        for node in (manager, worker):
            await node.start()
        await manager.init()
        await worker.join(manager)
        for node in (worker, manager):
            await node.stop()
        clock.now_s += TOO_LATE_S
        for node in (manager, worker):
            await node.start()
        await worker.until("error")
        text = "Swarm certificates have expired. To replace them, leave the swarm and join again."
        assert worker.state.error == text
        await worker.engine.leave_swarm(force=False)
        await worker.join(manager)
        assert worker.state.state == "active"
        for node in (worker, manager):
            await node.stop()

    run(story)


def test_second_managers_certificate_is_renewed_too_and_its_port_opens_again():
    async def story(clock, manager, second):
        for node in (manager, second):
            await node.start()
        await manager.init()
        await second.join(manager, "manager")
        for node in (second, manager):
            await node.stop()
        clock.now_s += EXPIRED_S
        for node in (second, manager):
            await node.start()
        await second.until("active", 2 * 3600)
        assert "w.x:2377" in second.net.ports
        for node in (second, manager):
            await node.stop()

    run(story)

"""Swarms that slept past their certificates, and a node that slept too long."""

import asyncio

from tests.daemon.sim_nodes import run_pair

DAY_S = 86_400
EXPIRED_S = 100 * DAY_S  # certificates are for 90 days
TOO_LATE_S = EXPIRED_S + 366 * DAY_S


def run(story, role="worker"):
    """Both are off when `story` begins."""

    async def whole(clock, manager, other):
        await other.join(manager, role)
        for node in (other, manager):
            await node.stop()
        await story(clock, manager, other)

    run_pair(whole, limit_s=TOO_LATE_S * 3)


def ends_ms(node):
    return node.state.certificate.ends_ms


def test_swarm_that_slept_past_its_certificates_wakes_again():
    async def story(clock, manager, worker):
        clock.now_s += EXPIRED_S
        await manager.start()
        assert ends_ms(manager) > clock.wall_ms()
        await worker.start()
        await worker.until("active")
        assert ends_ms(worker) > clock.wall_ms()

    run(story)


def test_worker_wakes_before_its_manager_and_waits():
    async def story(clock, manager, worker):
        clock.now_s += EXPIRED_S
        await worker.start()
        await asyncio.sleep(30)
        assert worker.state.state == "error"
        assert worker.state.error.startswith("Swarm certificates have expired.")
        await manager.start()
        await worker.until("active", 2 * 3600)
        assert worker.state.error == ""

    run(story)


def test_worker_that_waited_for_hours_renews_as_soon_as_its_manager_is_back():
    async def story(clock, manager, worker):
        clock.now_s += EXPIRED_S
        await worker.start()
        await asyncio.sleep(6 * 3600)  # its pauses are of an hour by now
        await manager.start()
        await worker.until("active", 12)  # a session is tried every 8 s

    run(story)


def test_node_that_slept_more_than_a_year_longer_says_that_it_must_join_anew():
    async def story(clock, manager, worker):
        clock.now_s += TOO_LATE_S
        for node in (manager, worker):
            await node.start()
        await worker.until("error")
        text = "Swarm certificates have expired. To replace them, leave the swarm and join again."
        assert worker.state.error == text
        await worker.engine.leave_swarm(force=False)
        await worker.join(manager)
        assert worker.state.state == "active"

    run(story)


def test_second_managers_certificate_is_renewed_too_and_its_port_opens_again():
    async def story(clock, manager, second):
        clock.now_s += EXPIRED_S
        for node in (second, manager):
            await node.start()
        await second.until("active", 2 * 3600)
        assert "w.x:2377" in second.net.ports

    run(story, "manager")

"""The thread for blocking work."""

import asyncio
import gc
import threading
import time
from functools import partial

import pytest

from swarmlet.core.errors import DiskFullError
from swarmlet.env.real import WorkerThread


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


async def test_worker_thread_runs_calls_in_order_and_beside_the_loop():
    worker, order, loop_thread = WorkerThread("w"), [], threading.get_ident()

    def work(number: int) -> int:
        time.sleep(0.005 if number == 0 else 0)
        order.append(number)
        assert threading.get_ident() != loop_thread
        return number

    answers = await asyncio.gather(*(worker(partial(work, number)) for number in range(20)))
    assert answers == order == list(range(20))
    worker.close()


async def test_worker_thread_hands_an_error_to_who_waits_and_goes_on():
    worker = WorkerThread("w")

    def fail() -> None:
        raise DiskFullError("full")

    with pytest.raises(DiskFullError):
        await worker(fail)
    assert await worker(lambda: 1) == 1
    worker.close()


async def test_worker_thread_does_not_begin_what_nobody_waits_for_any_more():
    worker, began, may_end = WorkerThread("w"), threading.Event(), threading.Event()
    seen: list[str] = []

    def first() -> None:
        began.set()
        may_end.wait(5)
        seen.append("first")

    running, waiting = worker(first), worker(lambda: seen.append("second"))
    assert await asyncio.to_thread(began.wait, 5)
    running.cancel()
    waiting.cancel()
    may_end.set()
    await worker(lambda: seen.append("third"))
    worker.close()
    assert seen == ["first", "third"]


async def test_worker_thread_ends_what_was_asked_for_when_it_is_closed():
    worker, seen = WorkerThread("worker-closed"), []
    late = worker(lambda: (time.sleep(0.02), seen.append(1)))
    worker.close()
    assert seen == [1]
    assert "worker-closed" not in names()
    await late


def test_worker_thread_survives_a_loop_that_was_closed_before_the_answer():
    worker, may_end = WorkerThread("w"), threading.Event()

    async def leave() -> None:
        worker(lambda: may_end.wait(5))

    asyncio.run(leave())
    may_end.set()

    async def again() -> int:
        return await worker(lambda: 2)

    assert asyncio.run(again()) == 2
    worker.close()


async def test_worker_thread_ends_with_the_last_who_knows_it():
    worker = WorkerThread("worker-forgotten")
    await worker(lambda: None)
    assert "worker-forgotten" in names()
    del worker
    gc.collect()
    until_s = time.monotonic() + 5
    while "worker-forgotten" in names():
        assert time.monotonic() < until_s, "the thread is still there"
        await asyncio.sleep(0.005)

"""Faults at random on five nodes while a service runs and clients write; then the reckoning.

One seed gives the same faults in the same order for the same lengths of time; what the nodes make
of them is theirs.
"""

import asyncio
import random
import time
from collections.abc import Callable

from tests.cluster.backends import MANAGERS, WORKERS, Five, is_whole, mend
from tests.cluster.copies import copies, each_once, marked_service
from tests.cluster.swarms import config, configs_of, managers_seen_by
from tests.daemon.harness import ApiError, Client, wait_for, wait_running

REPLICAS = 10
HURTS_S = (0.5, 12.0)  # some shorter, some longer than what it takes to be given up
RESTS_S = (0.2, 4.0)
HEALS_WITHIN_S = 120.0
CALM_S = 3.0
WRITES_EVERY_S = 0.1
FAULTS = ("crash", "shutdown", "kill", "stop", "freeze", "cut")


class Writer:
    """A client of one manager that creates configs, each name once, and notes what was answered."""

    def __init__(self, net: Five, name: str, mark: str, acked: dict[str, str]) -> None:
        self._net, self._name, self._mark, self._acked = net, name, mark, acked

    async def run(self) -> None:
        turn = 0
        while True:
            name, turn = f"{self._mark}-{self._name}-{turn}", turn + 1
            try:
                self._acked[name] = await asyncio.to_thread(self._write, name)
            except (ApiError, OSError):
                await asyncio.sleep(WRITES_EVERY_S)  # of unknown outcome: nobody was promised it
            await asyncio.sleep(WRITES_EVERY_S)

    def _write(self, name: str) -> str:
        client = Client(self._net[self._name].socket, 10.0)
        return client.post("/configs/create", config(name))["ID"]


class Chaos:
    """`seed` decides what happens; `say` is told each of it."""

    def __init__(self, net: Five, seed: int, say: Callable[[str], object]) -> None:
        self._net, self._rng, self._say = net, random.Random(seed), say
        self._mark = f"chaos-{seed}-{time.time_ns()}"
        self.acked: dict[str, str] = {}  # id by name

    async def run(self, *, rounds: int, minutes: float) -> list[str]:
        """Until either is over; what is wrong in the end."""
        await asyncio.to_thread(self._begin)
        async with asyncio.TaskGroup() as group:
            writers = [
                group.create_task(Writer(self._net, name, self._mark, self.acked).run())
                for name in MANAGERS
            ]
            end_s = time.monotonic() + minutes * 60
            turn = 0
            while turn < rounds and time.monotonic() < end_s:
                turn += 1
                await self._round(turn)
            await asyncio.to_thread(mend, self._net)
            for writer in writers:
                writer.cancel()
        return await asyncio.to_thread(self._reckon)

    def _begin(self) -> None:
        mend(self._net)
        wait_for(lambda: is_whole(self._net), what="five nodes", limit_s=HEALS_WITHIN_S)
        client = self._net["manager1"].client()
        client.post("/services/create", marked_service(self._mark, self._mark, REPLICAS))
        wait_running(client, self._mark, REPLICAS)

    async def _round(self, turn: int) -> None:
        """One fault; on one node, or on a manager and a worker."""
        fault, manager = self._rng.choice(FAULTS), self._rng.choice(("the leader", *MANAGERS))
        worker, kind = self._rng.choice(WORKERS), self._rng.choice(("manager", "worker", "both"))
        hurts_s, rests_s = self._rng.uniform(*HURTS_S), self._rng.uniform(*RESTS_S)
        if manager == "the leader":
            manager = await asyncio.to_thread(self._leader)
        names = {"manager": [manager], "worker": [worker], "both": [manager, worker]}[kind]
        self._say(f"round {turn}: {fault} {' and '.join(names)} for {hurts_s:.1f} s")
        await asyncio.to_thread(self._hurt, fault, names)
        await asyncio.sleep(hurts_s)
        await asyncio.to_thread(mend, self._net)
        await asyncio.sleep(rests_s)

    def _hurt(self, fault: str, names: list[str]) -> None:
        if fault == "cut":
            self._net.cut(*names)
        else:
            for name in names:
                getattr(self._net[name], fault)()

    def _leader(self) -> str:
        """Or, where nobody knows one now, the first manager."""
        for name in MANAGERS:
            try:
                seen = managers_seen_by(self._net[name])
            except (ApiError, OSError):
                continue
            return next((one for one, row in seen.items() if row.get("Leader")), MANAGERS[0])
        return MANAGERS[0]

    def _reckon(self) -> list[str]:
        try:
            wait_for(lambda: is_whole(self._net), what="five nodes", limit_s=HEALS_WITHIN_S)
            wait_for(self._is_right, what="each task once", limit_s=HEALS_WITHIN_S)
        except AssertionError as error:
            return [f"{error}; processes by slot: {dict(copies(self._net, self._mark))}"]
        wrong = []
        end_s = time.monotonic() + CALM_S
        while not wrong and time.monotonic() < end_s:
            if not self._is_right():
                found = dict(copies(self._net, self._mark))
                wrong.append(f"tasks changed without a cause; processes by slot: {found}")
        held = {name: configs_of(self._net[name]) for name in MANAGERS}
        for name in MANAGERS:
            lost = [one for one, found in self.acked.items() if held[name].get(one) != found]
            if lost:
                count = f"{len(lost)} of {len(self.acked)}"
                wrong.append(f"{name} lacks {count} acknowledged writes, such as {sorted(lost)[0]}")
        return wrong or self._clean_up()

    def _clean_up(self) -> list[str]:
        client = self._net["manager1"].client()
        client.delete(f"/services/{self._mark}")
        for name, found in configs_of(self._net["manager1"]).items():
            if name.startswith(f"{self._mark}-"):
                client.delete(f"/configs/{found}")
        return []

    def _is_right(self) -> bool:
        return copies(self._net, self._mark) == each_once(REPLICAS)

"""Three real managers under faults while clients write: nothing acknowledged is ever lost."""

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import are_voters, config, configs_of, form_managers, managers_seen_by
from tests.daemon.harness import ApiError, Client, wait_for

ROUNDS = int(os.environ.get("SWARMLET_CHAOS_ROUNDS", "10"))
SEED = int(os.environ.get("SWARMLET_CHAOS_SEED", "1"))
WRITERS_A_HOST = 2
RECOVERS_WITHIN_S = 15.0

pytestmark = pytest.mark.timeout(120 + 30 * ROUNDS)


class Writers:
    """Clients of every manager that create configs, each name once, and note what was answered."""

    def __init__(self, net: Network) -> None:
        self._net, self._stop = net, threading.Event()
        self._pool = ThreadPoolExecutor(WRITERS_A_HOST * len(net.hosts))
        self.acked: dict[str, str] = {}  # id by name
        self.last_ack_s = 0.0

    def __enter__(self) -> "Writers":
        for host in self._net.hosts.values():
            for number in range(WRITERS_A_HOST):
                self._pool.submit(self._write, host, f"{host.name}-{number}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def _write(self, host: Host, who: str) -> None:
        turn = 0
        while not self._stop.is_set():
            name, turn = f"{who}-{turn}", turn + 1
            try:
                self.acked[name] = Client(host.socket, 5.0).post("/configs/create", config(name))[
                    "ID"
                ]
            except (ApiError, OSError):
                self._stop.wait(0.05)
            else:
                self.last_ack_s = time.monotonic()


def kill(net: Network, name: str, rng: random.Random) -> Callable[[], object]:
    net[name].kill()
    return net[name].start


def freeze(net: Network, name: str, rng: random.Random) -> Callable[[], object]:
    net[name].freeze()
    return net[name].thaw


def cut(net: Network, name: str, rng: random.Random) -> Callable[[], object]:
    net.cut(name)
    return net.heal


def cut_one_way(net: Network, name: str, rng: random.Random) -> Callable[[], object]:
    for other in net.hosts:
        if other != name:
            net.cut_one_way(*((name, other) if rng.random() < 0.5 else (other, name)))
    return net.heal


def fill(net: Network, name: str, rng: random.Random) -> Callable[[], object]:
    net[name].fill_disk()
    return net[name].free_disk


def kill_all(net: Network, name: str, rng: random.Random) -> Callable[[], object]:
    for host in net.hosts.values():
        host.kill()

    def back() -> None:
        for host in net.hosts.values():
            host.start()

    return back


FAULTS = (kill, freeze, cut, cut_one_way, fill, kill_all)


def victim(net: Network, rng: random.Random) -> str:
    """The leader half of the time."""
    if rng.random() < 0.5:
        for host in net.hosts.values():
            try:
                seen = managers_seen_by(host)
            except (ApiError, OSError):
                continue
            return next((one for one, status in seen.items() if status.get("Leader")), "m1")
    return rng.choice(sorted(net.hosts))


def test_every_acknowledged_write_survives_kills_stops_cuts_and_full_disks():
    rng = random.Random(SEED)
    with network("m1", "m2", "m3", disk="64m") as net:
        form_managers(net)
        with Writers(net) as writers:
            time.sleep(0.5)
            assert writers.acked
            for turn in range(ROUNDS):
                fault = FAULTS[turn % len(FAULTS)]
                told = f"round {turn}: {fault.__name__} with SWARMLET_CHAOS_SEED={SEED}"
                mend = fault(net, victim(net, rng), rng)
                time.sleep(rng.uniform(0.3, 3.0))
                mend()
                mended_s = time.monotonic()
                wait_for(
                    lambda since=mended_s: writers.last_ack_s > since,
                    what=f"a write after {told}",
                    limit_s=RECOVERS_WITHIN_S,
                )
        wait_for(lambda: are_voters(net), what="three managers", limit_s=30.0)
        held = [configs_of(host) for host in net.hosts.values()]
        assert held[0] == held[1] == held[2]
        lost = {name for name, identity in writers.acked.items() if held[0].get(name) != identity}
        assert not lost, f"{len(lost)} of {len(writers.acked)} with SWARMLET_CHAOS_SEED={SEED}"

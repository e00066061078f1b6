"""Beyond one leader's sessions and one log: what a simulation can show of the designs on paper.

    scripts/bench further

Not measurements: queues and counters on virtual time, with the product's own backoff, gate and
water filling, and costs as `scripts/bench storm` measured them. `storm`: the leader dies, and after
ELECTION_S all nodes register with those who take sessions, each one core that takes COST_S for a
registration (SHARED_COST_S where the agents have the same cores, as in the measured runs beside
which it stands). `federation`: services come to a swarm of swarms, which shares their tasks out by
the room each reported a moment ago, and what does not fit after all comes back.
"""

import heapq
import random
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from swarmlet.agent.session import BACKOFF_MAX_S, BACKOFF_MIN_S, REGISTER_TIMEOUT_S
from swarmlet.reconcile.scheduler.spread import share_out
from swarmlet.wire.gate import GateLimits

COST_S = 0.002
SHARED_COST_S = 0.0034
GIVEN_UP_COST_S = 0.001  # of one whose node has gone: the handshake is half of it
ELECTION_S = 1.0
WAITING_MAX = GateLimits().unfinished + GateLimits().waiting
SEEDS = 5

SWARMS = 20
SWARM_TASKS = 100_000  # that a swarm has room for
SERVICES = 4_000
FULL = 97  # percent of all room: more is not asked for
ARRIVALS_PER_S = 50


# Everybody registers anew -----------------------------------------------------------------------
class Storm:
    """Nodes that find their sessions gone at 0 s, and servers that take one at a time."""

    def __init__(self, nodes: int, servers: int, cost_s: float, seed: int) -> None:
        self._rng, self._number, self._cost_s = random.Random(seed), count(), cost_s
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._queues: list[deque[tuple[float, int]]] = [deque() for _ in range(servers)]
        self._is_busy, self._backoffs = [False] * servers, [0.0] * nodes
        self.done, self.last_s, self.wasted_s = 0, 0.0, 0.0
        for node in range(nodes):
            self._try_later(node, 0.0)

    def run(self) -> None:
        while self.done < len(self._backoffs):
            now_s, _, what = heapq.heappop(self._events)
            what(now_s)

    def _at(self, when_s: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when_s, next(self._number), what))

    def _try_later(self, node: int, now_s: float) -> None:
        backoff_s = min(BACKOFF_MIN_S + 2 * self._backoffs[node], BACKOFF_MAX_S)
        self._backoffs[node] = backoff_s
        self._at(now_s + self._rng.uniform(0, backoff_s), partial(self._connect, node))

    def _connect(self, node: int, now_s: float) -> None:
        server = self._rng.randrange(len(self._queues))
        if now_s < ELECTION_S or len(self._queues[server]) >= WAITING_MAX:
            self._try_later(node, now_s)
            return
        self._queues[server].append((now_s, node))
        if not self._is_busy[server]:
            self._serve(server, now_s)

    def _serve(self, server: int, now_s: float) -> None:
        queue = self._queues[server]
        self._is_busy[server] = bool(queue)
        if not queue:
            return
        since_s, node = queue.popleft()
        if now_s - since_s <= REGISTER_TIMEOUT_S:
            self._at(now_s + self._cost_s, partial(self._finish, server))
            return
        self.wasted_s += GIVEN_UP_COST_S
        self._try_later(node, since_s + REGISTER_TIMEOUT_S)
        self._at(now_s + GIVEN_UP_COST_S, partial(self._serve, server))

    def _finish(self, server: int, now_s: float) -> None:
        self.done, self.last_s = self.done + 1, now_s
        self._serve(server, now_s)


def storm(nodes: int, servers: int, cost_s: float, seed: int) -> tuple[float, float]:
    """Seconds until the last node is registered, and the share of work that was for nothing."""
    one = Storm(nodes, servers, cost_s, seed)
    one.run()
    return one.last_s, one.wasted_s / (one.wasted_s + nodes * cost_s)


# A swarm of swarms ------------------------------------------------------------------------------
def federation(period_s: float, seed: int) -> tuple[int, int, float]:
    """Fewest and most tasks of a swarm at the end, and the share that was sent where no room was.

    Swarms have users of their own, of whom the one above hears with the next report.
    """
    rng = random.Random(seed)
    held, reported = [0] * SWARMS, [0] * SWARMS
    sent = came_back = 0
    report_s = 0.0
    for number in range(SERVICES):
        if number / ARRIVALS_PER_S >= report_s:
            reported, report_s = list(held), report_s + period_s
        own = rng.randrange(SWARMS)
        held[own] = min(SWARM_TASKS, held[own] + size_of(rng) // 4)
        room = SWARMS * SWARM_TASKS * FULL // 100 - sum(held)
        waiting, shut = min(size_of(rng), room), set[int]()
        if waiting <= 0:
            break
        sent += waiting
        while waiting:
            able = [swarm for swarm in range(SWARMS) if swarm not in shut]
            shares = share_out([reported[swarm] for swarm in able], waiting)
            for swarm, share in zip(able, shares, strict=True):
                taken = min(share, SWARM_TASKS - held[swarm])
                held[swarm] += taken
                reported[swarm] += taken  # what it answers at once
                waiting -= taken
                if taken < share:
                    came_back += share - taken
                    shut.add(swarm)
    return min(held), max(held), came_back / sent


def size_of(rng: random.Random) -> int:
    """Most services are small, a few have most of the tasks."""
    return min(20_000, int(rng.paretovariate(1.1) * 150))


def run() -> None:
    out = sys.stdout.write
    cases = [
        ("one leader, agents on its cores", 2_000, 1, SHARED_COST_S),
        ("one leader, agents on its cores", 5_000, 1, SHARED_COST_S),
        ("one leader", 5_000, 1, COST_S),
        ("one leader", 10_000, 1, COST_S),
        ("four shards of a leader", 10_000, 4, COST_S),
        ("five managers take sessions", 10_000, 5, COST_S),
        ("one leader", 20_000, 1, COST_S),
        ("five managers take sessions", 20_000, 5, COST_S),
        ("five managers of four shards", 50_000, 20, COST_S),
    ]
    for name, nodes, servers, cost_s in cases:
        found = [storm(nodes, servers, cost_s, seed) for seed in range(SEEDS)]
        last_s = [seconds for seconds, _ in found]
        wasted = max(share for _, share in found)
        out(
            f"storm: {name:<34}{nodes:>7,} nodes: all back after {min(last_s):.1f} - "
            f"{max(last_s):.1f} s; at most {wasted:.0%} of the work for nothing\n"
        )
    for period_s in (0.1, 1.0, 10.0):
        found_all = [federation(period_s, seed) for seed in range(SEEDS)]
        fewest, most = min(one[0] for one in found_all), max(one[1] for one in found_all)
        out(
            f"federation: a report each {period_s:>4g} s: {fewest:,}..{most:,} tasks a swarm, "
            f"at most {max(one[2] for one in found_all):.2%} came back\n"
        )


if __name__ == "__main__":
    run()

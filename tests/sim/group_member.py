"""One manager of a simulated group: its disk, its clock, and its lives one after the other.

In each life the product's own store and Raft engine run, in a task of the member's own, so that it
can be paused. What the daemon keeps of its member (raft id, keys, whether it joined) is here a
record that changes at once and survives everything but a disk that is rolled back.
"""

import asyncio
import copy
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeVar

from swarmlet.core.errors import SwarmError, UnavailableError, first_of
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.env.base import Env
from swarmlet.env.sealed import SealKey, SealKeys, seal_key
from swarmlet.model.change import Event
from swarmlet.raft.engine import Origin, RaftEngine, RaftLimits
from swarmlet.store.proposer import Member
from swarmlet.store.store import Store
from tests.sim.disk import SimCrash, SimDisk
from tests.sim.group_loop import GroupLoop
from tests.sim.group_net import PORT, Channel, GroupNet, SimDialer, serve_snapshot
from tests.sim.group_truth import GroupTruth, Looked
from tests.sim.loop import HostClock, SimClock

T = TypeVar("T")

FOLDER = "/data/raft"
MARKER = b"nobody-may-read-this"  # opens every value that clients write
LIMITS = RaftLimits(snapshot_entries=150, slow_follower_entries=20)
SYNC_S = (0.0003, 0.002)
UNWIND_TURNS = 200


class GroupDisk(SimDisk):
    """Looks at every block that is written, and counts the power cuts that came."""

    on_crash: Callable[[], object] = staticmethod(lambda: None)
    has_plaintext = False

    def _do(self, what: str, act: Any) -> None:
        try:
            super()._do(what, act)
        except SimCrash:
            self.on_crash()
            raise
        self.log.clear()

    def check_block(self, data: bytes) -> None:
        self.has_plaintext |= MARKER in data


@dataclass(frozen=True)
class Record:
    """What the daemon keeps beside the Raft folder. `pending`: a data key that is on its way."""

    raft_id: RaftID
    secret: bytes = b""
    pending: bytes = b""
    is_founder: bool = False

    def keys(self) -> SealKeys:
        current = seal_key(self.secret)
        if self.pending:
            return SealKeys(current=seal_key(self.pending), older=(current,))
        return SealKeys(current=current)


NOBODY = Record(raft_id=RaftID(0))


class Machine:
    """The store, watched."""

    def __init__(self, store: Store, name: str, truth: GroupTruth, looked: Looked) -> None:
        self._store, self._name, self._truth, self._looked = store, name, truth, looked
        self._events: list[Event] = []
        store.subscribe(self._events.extend, at_restore=False)

    def apply(self, index: int, entry: bytes) -> None:
        self._events.clear()
        self._store.apply(index, entry)
        kept = len(self._store.history)
        self._truth.applied(self._name, index, entry, self._events, self._looked, kept)

    def snapshot(self) -> Iterator[bytes]:
        self._truth.counts["snapshots taken"] += 1
        return self._store.snapshot()

    def restore(self, chunks: Iterable[bytes]) -> None:
        self._store.restore(chunks)
        self._truth.restored(self._name, self._store, self._looked)


class SlowBlocking:
    """env.Blocking: each call takes the time of a sync, in order, before or after its work."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.factor, self._lock = rng, 1.0, asyncio.Lock()

    async def __call__(self, work: Callable[[], T]) -> T:
        async with self._lock:
            pause_s = self.rng.uniform(*SYNC_S) * self.factor
            if self.rng.random() < 0.5:
                await asyncio.sleep(pause_s)
                return work()
            result = work()
            await asyncio.sleep(pause_s)
            return result


@dataclass
class Manager:
    """`state`: "out", "in" (a member, learner or voter), "gone" (for good)."""

    name: str
    seed: int | str
    net: GroupNet
    truth: GroupTruth
    world_clock: SimClock
    on_end: Callable[["Manager", BaseException | None], object]
    state: str = "out"
    record: Record = NOBODY
    life: int = 0
    disk: GroupDisk = field(default_factory=GroupDisk)
    is_up: bool = False
    moves: int = 0  # addresses it had
    paused_s: float = 0.0  # in all

    def __post_init__(self) -> None:
        self.node_id, self.rng = NodeID(self.name), Random(f"{self.seed}/{self.name}")
        self.clock = HostClock(self.world_clock)
        self.blocking = SlowBlocking(self.rng)
        self.looked = Looked()
        self.engine: RaftEngine | None = None
        self.store: Store
        self.task: asyncio.Task[None] | None = None
        self._loop: GroupLoop
        self.disk.on_crash = self._power_goes
        self.voters_seen: tuple[RaftID, ...] = ()
        self.pauses_since_s = self.up_since_s = 0.0
        self._is_killed = False
        self._calls: dict[asyncio.Task[Any], None] = {}

    @property
    def address(self) -> str:
        return f"{self.name}.{self.moves}:{PORT}"

    def tell(self, what: str) -> None:
        self.truth.tell(self.world_clock.now_s, f"{self.name} {what}")

    # Lives ----------------------------------------------------------------------------------------

    def boot(
        self, loop: GroupLoop, origin: Origin | None = None, contacts: tuple[Member, ...] = ()
    ) -> None:
        assert self.task is None
        self.life += 1
        self._loop, self._is_killed = loop, False
        self.tell(f"boots, life {self.life}")
        self.task = loop.start(self.name, self._live(origin or self._origin(), contacts))

    def _origin(self) -> Origin:
        if self.disk.exists(f"{FOLDER}/journal"):
            return Origin.RESUME
        return Origin.FOUND if self.record.is_founder else Origin.JOIN

    def _make(self) -> RaftEngine:
        seed = f"{self.seed}/{self.name}/{self.life}"
        self.blocking = SlowBlocking(Random(f"{seed}/disk"))
        env = Env(
            clock=self.clock,
            rng=Random(f"{seed}/rng"),
            entropy=Random(f"{seed}/entropy").randbytes,
            disk=self.disk,
            blocking=self.blocking,
        )
        self.looked, self.store = Looked(), Store(env)
        machine = Machine(self.store, self.name, self.truth, self.looked)
        me = Member(raft_id=self.record.raft_id, node_id=self.node_id, address=self.address)
        engine = RaftEngine(
            env, FOLDER, self.record.keys(), machine, me, LIMITS, SimDialer(self.net, self)
        )
        self.store.attach(engine)
        return engine

    async def _live(self, origin: Origin, contacts: tuple[Member, ...]) -> None:
        end: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                engine = self._make()
                await engine.start(origin, contacts)
                self.engine, self.is_up = engine, True
                self.net.ports = {a: h for a, h in self.net.ports.items() if h is not self}
                self.net.ports[self.address] = self
                self.net.live(self.name)
                self.up_since_s = self.world_clock.now_s
                self.net.on_change()
                await self._begin_rotation_again(engine, group)
                await engine.run()
                raise _EndError
        except BaseExceptionGroup as errors:
            end = first_of(errors)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the run must know
            end = error
        self._ended(end)

    async def _begin_rotation_again(self, engine: RaftEngine, group: asyncio.TaskGroup) -> None:
        async def until_done() -> None:
            while self.record.pending:
                try:
                    await self.rotate(engine, seal_key(self.record.pending))
                except SwarmError as problem:
                    self.tell(f"keeps two keys: {problem.message}")
                    await asyncio.sleep(1)

        if self.record.pending:
            group.create_task(until_done())

    async def rotate(self, engine: RaftEngine, new: SealKey) -> None:
        """A data key takes the place of the last one."""
        if new.secret != self.record.pending:
            self.record = replace(self.record, pending=new.secret)
        await engine.rotate_key(new)
        self.record = replace(self.record, secret=new.secret, pending=b"")
        self.truth.counts["data keys rotated"] += 1

    def _ended(self, end: BaseException | None) -> None:
        self.is_up, self.task, self.engine = False, None, None
        if self.disk.is_dead and not self._is_killed:
            end = SimCrash()
        for call in list(self._calls):
            call.cancel()
        if not self.disk.is_dead and self.name not in self.net.dead:
            self.net.die(self.name, is_dark=False)
        if isinstance(end, _EndError | asyncio.CancelledError):
            end = None
        self.tell(f"ends: {type(end).__name__} {end or ''}")
        self.on_end(self, end)

    def _power_goes(self) -> None:
        """In the midst of a disk operation: nothing leaves this host from now on."""
        if self.name not in self.net.dead:
            self.net.die(self.name, is_dark=True)
        if self.task is not None:
            self._loop.call_soon(self.task.cancel)

    async def kill(self, *, is_power: bool) -> None:
        """At once. With the power goes what was not synced."""
        task = self.task
        if task is None:
            return
        self.disk.is_dead = self._is_killed = True
        self.net.die(self.name, is_dark=is_power)
        if self._loop.is_paused(self.name):
            self._loop.go_on(self.name)
        task.cancel()
        await asyncio.wait((task,), timeout=60)
        assert task.done(), f"{self.name} does not end"
        self.fall(is_power=is_power)

    def fall(self, *, is_power: bool) -> None:
        if is_power:
            self.disk.crash(self.rng)
        else:
            self.disk.reopen()

    async def stop(self) -> None:
        """The daemon ends in order."""
        if self.engine is not None and self.task is not None:
            task = self.task
            self._loop.start(self.name, self.engine.stop())
            await asyncio.wait((task,), timeout=30)

    # What others do with it -----------------------------------------------------------------------

    def accept(self, channel: Channel) -> None:
        if self.is_up and self.engine is not None:
            self._own(self.engine.serve_peer(channel), channel)
        else:
            channel.close()

    def accept_snapshot(self, channel: Channel) -> None:
        if self.is_up and self.engine is not None:
            self._own(self._take_snapshot(self.engine, channel), channel)
        else:
            channel.close()

    async def _take_snapshot(self, engine: RaftEngine, channel: Channel) -> None:
        try:
            await serve_snapshot(channel, engine.take_snapshot)
        except SwarmError as problem:
            self.tell(f"takes no snapshot: {problem.message}")

    def _own(self, work: Coroutine[Any, Any, None], channel: Channel) -> None:
        async def watched() -> None:
            try:
                await work
            except UnavailableError as problem:
                self.tell(f"does not talk: {problem.message}")
            finally:
                channel.close()

        serving = watched()
        try:
            self._group.create_task(serving, context=self._context())
        except RuntimeError:  # it is just ending
            serving.close()
            work.close()
            channel.close()

    def _context(self) -> Any:
        assert self.task is not None
        return self._loop.context_of(self.name)

    def call(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A call to this member; it is cancelled where the member ends."""
        task = self._loop.start(self.name, work)
        self._calls[task] = None
        task.add_done_callback(self._called)
        return task

    def _called(self, task: asyncio.Task[Any]) -> None:
        """Nobody may be left to hear how it went."""
        self._calls.pop(task, None)
        if not task.cancelled():
            task.exception()

    # Its disk -------------------------------------------------------------------------------------

    def backup(self) -> tuple[Any, Record]:
        return copy.deepcopy(self.disk._names), self.record

    def roll_back(self, saved: tuple[Any, Record]) -> None:
        """The disk is what it was, and so is what the daemon keeps."""
        names, self.record = copy.deepcopy(saved)
        self.disk._names, self.disk._kept_names = names, dict(names)
        self.disk.reopen()

    def wipe(self) -> None:
        """As the daemon does with a member that is refused."""
        self.disk._names.clear()
        self.disk._kept_names.clear()
        self.disk.reopen()
        self.record = NOBODY


class _EndError(Exception):
    """The engine stopped as it was asked to."""

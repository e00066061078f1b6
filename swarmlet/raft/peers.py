"""One connection to each other member: who dials, who is let in, which one counts.

The member with the lower raft id dials at once, the higher one after two seconds without a
connection (sooner when it begins), so that one is made though only one side reaches the other. Who
is talked to is the engine's to judge (`acquaintance`); here is only the way to do it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from swarmlet.core.errors import SwarmError, UnavailableError
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.env.base import Env
from swarmlet.raft.acquaintance import Live
from swarmlet.raft.handshake import PeerEvents, RefusedError, answer, greet
from swarmlet.raft.hello import PING, Hello, is_own
from swarmlet.raft.links import BACKOFF_MAX_S, Dial, Link, Noted, hear_own
from swarmlet.store.proposer import Member
from swarmlet.wire.channel import ChannelClosedError, RaftChannel
from swarmlet.wire.node_api import SnapshotAnswer, SnapshotHead

log = logging.getLogger("swarmlet.raft")

DIAL_TIMEOUT_S: Final = 3.0
HELLO_TIMEOUT_S: Final = 3.0  # from the connection to the end of the handshake
HIGHER_WAITS_S: Final = 2.0  # before it dials the lower
HIGHER_BEGINS_S: Final = 0.3  # at its own start, when the lower may have been trying for long
STEADY_S: Final = 2.0  # a connection that held so long was none of many failures
GREETING_PERIOD_S: Final = 0.05  # how soon to look again whether a handshake came to nothing
PING_PERIOD_S: Final = 0.5  # where nothing else is sent: members that follow say little
SILENT_PERIODS_MAX: Final = (
    6  # as TCP notices a lost host; periods that this process slept do not count
)
PENDING_MAX: Final = 64  # accepted connections before their handshake's end
PENDING_PER_NODE_MAX: Final = 4
UNKNOWN_MAX: Final = 16  # connections of members that this one has not heard of


class Dialer(Protocol):
    """The way to other managers, with this node's credentials of the moment."""

    async def open(self, addr: str) -> RaftChannel:
        """Raises SwarmError."""
        ...

    async def send_snapshot(
        self, addr: str, head: SnapshotHead, chunks: Iterable[bytes]
    ) -> SnapshotAnswer:
        """Raises SwarmError."""
        ...


class Peers:
    """`run` dials and owns what it dialled; who was accepted is served by `serve`, while `run`
    runs."""

    def __init__(self, env: Env, me: Member, dialer: Dialer, events: PeerEvents) -> None:
        self._env, self._me, self._dialer, self._events = env, me, dialer, events
        self._wanted: dict[RaftID, Member] = {}
        self._dials: dict[RaftID, Dial] = {}
        self._links: dict[RaftID, Link] = {}
        self._pending: dict[RaftChannel, None] = {}
        self._penalties: dict[NodeID, float] = {}  # until when, of those that sent garbage
        self._noted = Noted()
        self._news = asyncio.Event()
        self._turn = self._epoch = 0
        self._is_running = False

    async def run(self) -> None:
        """Until cancelled; then all connections end."""
        self._is_running = True
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._news.clear()
                    self._match_wanted(group)
                    await self._news.wait()
        finally:
            self._is_running = False
            self._dials.clear()
            for channel in [*self._pending, *(link.channel for link in self._links.values())]:
                channel.close()

    def want(self, members: Sequence[Member]) -> None:
        """The configuration now: all of these are dialled, and whoever is not in it any more is let
        go. A member that moved is dialled at its new address once its connection is gone."""
        others = (member for member in members if member.raft_id != self._me.raft_id)
        self._wanted = {member.raft_id: member for member in others}
        self._news.set()

    def send(self, to: RaftID, epoch: int, frame: bytes) -> bool:
        """Never waits. False where that connection is gone, or too much of it is queued (then it
        ends)."""
        link = self._links.get(to)
        if link is None or link.epoch != epoch:
            return False
        link.has_sent = True
        return link.channel.send(frame)

    async def send_snapshot(
        self, to: RaftID, head: SnapshotHead, chunks: Iterable[bytes]
    ) -> SnapshotAnswer:
        """On a connection of its own. Raises SwarmError."""
        member = self._wanted.get(to)
        if member is None:
            raise UnavailableError(f"There is no member {to:x} in the group.")
        theirs = msgspec.structs.replace(head, node_id=member.node_id)
        return await self._dialer.send_snapshot(member.address, theirs, chunks)

    def live(self, raft_id: RaftID) -> Live | None:
        """The connection to this member, for `Acquaintances.judge`."""
        link = self._links.get(raft_id)
        if link is None:
            return None
        return Live(boot=link.hello.boot, silent_s=self._env.clock.mono_s() - link.heard_s)

    async def serve(self, channel: RaftChannel) -> None:
        """A connection that was accepted, until it ends. Raises UnavailableError, before anything
        is read or written, where there is no room for it."""
        self._check_room(channel.node_id)
        await self._talk(channel, None)

    # Dialling

    def _match_wanted(self, group: asyncio.TaskGroup) -> None:
        for raft_id in [each for each in self._dials if each not in self._wanted]:
            self._let_go(raft_id)
        for raft_id in sorted(self._wanted):
            member, dial = self._wanted[raft_id], self._dials.get(raft_id)
            if dial is None:
                dial = Dial(member)
                self._rest(dial, HIGHER_BEGINS_S)
                self._dials[raft_id] = dial
                dial.task = group.create_task(self._dial(dial), name=f"raft-dial-{raft_id:x}")
            elif dial.member != member:
                dial.begin_anew(member)

    def _let_go(self, raft_id: RaftID) -> None:
        """What was sent to it still goes out: it may be that it was removed."""
        dial, link = self._dials.pop(raft_id), self._links.get(raft_id)
        dial.changed.set()
        if link is not None:
            link.channel.close()
        if dial.task is not None and (link is None or not dial.is_talking):
            dial.task.cancel()

    async def _dial(self, dial: Dial) -> None:
        """Keep one connection to this member, whoever makes it."""
        while self._dials.get(dial.raft_id) is dial:
            dial.changed.clear()
            left_s = dial.not_before_s - self._env.clock.mono_s()
            if dial.raft_id in self._links:
                await dial.changed.wait()
            elif left_s > 0 or self._is_greeting(dial):
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s if left_s > 0 else GREETING_PERIOD_S):
                        await dial.changed.wait()
            else:
                await self._dial_once(dial)

    def _is_greeting(self, dial: Dial) -> bool:
        """Whether it has dialled us, and the handshake goes on: it may be why we lost another."""
        return any(channel.node_id == dial.node_id for channel in self._pending)

    async def _dial_once(self, dial: Dial) -> None:
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                channel = await self._dialer.open(dial.member.address)
        except TimeoutError:
            self._unreached(dial.node_id, "it does not answer")
        except SwarmError as error:
            self._unreached(dial.node_id, error.message)
        else:
            if await self._talk_to(dial, channel):
                return
        self._put_off(dial)

    async def _talk_to(self, dial: Dial, channel: RaftChannel) -> bool:
        if channel.node_id != dial.node_id:  # whose word is not that member's
            channel.close()
            self._unreached(dial.node_id, f"node {channel.node_id} answers there")
            return False
        dial.is_talking = True
        try:
            return await self._talk(channel, dial.member)
        finally:
            dial.is_talking = False

    def _put_off(self, dial: Dial) -> None:
        """After a failure, or a connection that did not hold."""
        backoff_s = dial.backoff_s(self._env.rng.random())
        dial.not_before_s = max(dial.not_before_s, self._env.clock.mono_s() + backoff_s)

    def _rest(self, dial: Dial, higher_s: float = HIGHER_WAITS_S) -> None:
        """Without a connection from now on: the lower dials at once."""
        now_s = self._env.clock.mono_s()
        pause_s = 0.0 if self._me.raft_id < dial.raft_id else higher_s
        dial.not_before_s = max(now_s + pause_s, self._penalties.get(dial.node_id, now_s))

    def _unreached(self, node_id: NodeID, cause: str) -> None:
        if self._noted.is_news(node_id, "unreachable"):
            log.warning("raft.peer_unreachable", extra={"node_id": node_id, "cause": cause})

    # Talking

    async def _talk(self, channel: RaftChannel, dialed: Member | None) -> bool:
        """To the connection's end; whether it was one that counted."""
        began = self._next_turn()
        async with asyncio.TaskGroup() as group:
            group.create_task(channel.write(), name="raft-write")
            try:
                hello = await self._shake_hands(channel, dialed)
                if hello is None:
                    return False
                is_by_lower = (dialed is None) == (hello.sender < self._me.raft_id)
                link = Link(channel, hello, is_by_lower=is_by_lower, began=began)
                if not self._establish(link):
                    return False
                watch = group.create_task(self._watch(link), name="raft-watch")
                try:
                    await self._read(link)
                finally:
                    watch.cancel()
                    self._drop(link)
            finally:
                channel.close()
        return True

    async def _shake_hands(self, channel: RaftChannel, dialed: Member | None) -> Hello | None:
        self._pending[channel] = None
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                if dialed is not None:
                    return await greet(channel, dialed, self._events)
                return await answer(channel, self._events)
        except RefusedError as error:
            self._hear_refusal(channel.node_id, error)
        except ValueError as error:
            self._punish(channel.node_id, error)
        except (TimeoutError, ChannelClosedError):
            pass  # silent or gone, and tried again
        finally:
            del self._pending[channel]
        return None

    def _establish(self, link: Link) -> bool:
        raft_id, old = link.raft_id, self._links.get(link.raft_id)
        if not self._is_running or (old is not None and not link.replaces(old)):
            return False
        if old is not None:
            self._drop(old)
        self._epoch += 1
        link.make(self._epoch, self._next_turn(), self._env.clock.mono_s())
        self._links[raft_id] = link
        self._noted.forget(link.channel.node_id)
        self._tell(raft_id)
        log.info("raft.peer_connected", extra={"node_id": link.node_id, "raft_id": link.hex_id})
        self._events.connected(raft_id, link.epoch)
        return True

    def _drop(self, link: Link) -> None:
        """Nothing is heard of it any more, whatever still comes."""
        link.channel.close()
        if self._links.get(link.raft_id) is not link:
            return
        del self._links[link.raft_id]
        dial = self._dials.get(link.raft_id)
        if dial is not None:
            self._rest(dial)
            if self._env.clock.mono_s() - link.made_s >= STEADY_S:
                dial.failures = 0
            else:
                self._put_off(dial)
        self._tell(link.raft_id)
        log.info("raft.peer_lost", extra={"node_id": link.node_id, "raft_id": link.hex_id})
        self._events.disconnected(link.raft_id, link.epoch)

    async def _read(self, link: Link) -> None:
        raft_id = link.raft_id
        with suppress(ChannelClosedError):
            while True:
                frame = await link.channel.receive()
                if self._links.get(raft_id) is not link:
                    return
                link.heard_s, link.silent_periods = self._env.clock.mono_s(), 0
                try:
                    if is_own(frame):
                        hear_own(raft_id, frame)
                    else:
                        self._events.received(raft_id, link.epoch, frame)
                except RefusedError as error:
                    self._hear_refusal(link.channel.node_id, error)
                    return
                except ValueError as error:
                    self._punish(link.channel.node_id, error)
                    return

    async def _watch(self, link: Link) -> None:
        """Say that we live; end it where the other does not."""
        while link.silent_periods < SILENT_PERIODS_MAX:
            if not link.has_sent:
                link.channel.send(PING)
            link.has_sent = False
            await asyncio.sleep(PING_PERIOD_S)
            link.silent_periods += 1
        link.channel.close()

    # Bounds, and what is noted

    def _check_room(self, node_id: NodeID) -> None:
        unknown = sum(1 for raft_id in self._links if raft_id not in self._wanted)
        of_node = Counter(channel.node_id for channel in self._pending)[node_id]
        is_full = len(self._pending) >= PENDING_MAX or of_node >= PENDING_PER_NODE_MAX
        if not self._is_running or is_full or unknown >= UNKNOWN_MAX:
            raise UnavailableError("This manager takes no more connections of the Raft group now.")
        if self._env.clock.mono_s() < self._penalties.get(node_id, 0.0):
            raise UnavailableError("This manager could not read what came last; wait a moment.")

    def _punish(self, node_id: NodeID, error: ValueError) -> None:
        log.warning("raft.peer_unreadable", extra={"node_id": node_id, "error": str(error)[:200]})
        now_s = self._env.clock.mono_s()
        self._penalties = {each: s for each, s in self._penalties.items() if s > now_s}
        self._penalties[node_id] = now_s + BACKOFF_MAX_S

    def _hear_refusal(self, node_id: NodeID, error: RefusedError) -> None:
        reason, cause = error.refusal.reason, error.refusal.sentence
        is_news = self._noted.is_news(node_id, f"{reason} {error.by_us}")
        if error.by_us:
            if is_news:
                log.warning(
                    "raft.peer_refused",
                    extra={"node_id": node_id, "reason": reason, "cause": cause},
                )
            return
        if is_news:
            log.warning(
                "raft.refused_by_peer",
                extra={"node_id": node_id, "reason": reason, "cause": cause},
            )
        # A node of ours by whatever raft id, for ours may be of old; others' word is nobody's.
        if any(member.node_id == node_id for member in self._wanted.values()):
            self._events.refused(error.raft_id, error.refusal)

    def _tell(self, raft_id: RaftID) -> None:
        dial = self._dials.get(raft_id)
        if dial is not None:
            dial.changed.set()

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn

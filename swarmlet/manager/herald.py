"""Who leads and who answers, told as Docker tells it: attributes of a node's update.

Neither is a row: the leader is known by its term, and whether a manager answers by who hears it. So
the manager that leads writes a note of each change, and every manager's history has it.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from swarmlet.core.errors import DiskFullError, UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.manager.event_feed import SLICE_EVENTS
from swarmlet.model.change import Event, Note
from swarmlet.model.event_message import node_name
from swarmlet.model.node import Node
from swarmlet.store.proposer import RaftLog
from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.manager")

CHECK_PERIOD_S: Final = 2.0  # what holds at two of these in a row is told
_LEADS: Final = {True: ("false", "true"), False: ("true", "false")}
_REACHABILITY: Final = {True: ("unreachable", "reachable"), False: ("reachable", "unreachable")}


class Herald:
    """Runs while this manager leads. What cannot be written is told later, or by the next."""

    name: Final = "herald"

    def __init__(self, store: Store, log_of_cluster: RaftLog, node_id: NodeID) -> None:
        self._store, self._log, self._node_id = store, log_of_cluster, node_id
        self._leader = ""  # who was told to lead, as far as the history knows
        self._silent: set[str] = set()  # who was told not to answer

    async def run(self) -> None:
        """Until cancelled."""
        await self._remember()
        members = asyncio.Event()

        def on_events(events: Sequence[Event]) -> None:
            if any(event.table is Node for event in events):
                members.set()

        unsubscribe = self._store.subscribe(on_events)
        seen = self._answering()
        try:
            while True:
                now = self._answering()
                lasting = {one: answers for one, answers in now.items() if seen.get(one) is answers}
                seen = now
                await self._tell(lasting)
                if len(now) > 1:
                    await asyncio.sleep(CHECK_PERIOD_S)
                else:
                    await members.wait()
                    members.clear()
        finally:
            unsubscribe()

    async def _remember(self) -> None:
        """What was told before, by whomever. A full history takes 80 ms."""
        self._leader, self._silent = "", set()
        for number, happening in enumerate(self._store.history.read(), 1):
            if number % SLICE_EVENTS == 0:
                await asyncio.sleep(0)
            for message in happening.messages:
                attributes = message.attributes
                if attributes.get("leader.new") == "true":
                    self._leader = message.id
                if attributes.get("reachability.new") == "unreachable":
                    self._silent.add(message.id)
                elif "reachability.new" in attributes:
                    self._silent.discard(message.id)

    def _answering(self) -> dict[NodeID, bool]:
        """Of each manager of which that is known, whether it answers now; this one does."""
        own = self._node_id
        return {
            NodeID(one.member.node_id): one.answers or one.member.node_id == own
            for one in self._log.health().members
            if one.is_known or one.member.node_id == own
        }

    async def _tell(self, answering: Mapping[NodeID, bool]) -> None:
        notes: list[Note] = []
        is_new = len(self._log.health().members) > 1 and self._leader != self._node_id
        if is_new:  # the only manager of a swarm is told to lead once there is a second
            notes += self._note(self._leader, "leader", _LEADS[False])
            notes += self._note(self._node_id, "leader", _LEADS[True])
        changed = [one for one in sorted(answering) if answering[one] is (one in self._silent)]
        for node_id in changed:
            notes += self._note(node_id, "reachability", _REACHABILITY[answering[node_id]])
        try:
            await self._store.commit(notes)
        except (UnavailableError, DiskFullError) as problem:
            log.debug("leader.not_told", extra={"cause": problem.message})
            return
        if is_new:
            self._leader = self._node_id
        self._silent ^= set(changed)

    def _note(self, node_id: str, key: str, words: tuple[str, str]) -> Iterator[Note]:
        node = self._store.view().nodes.get(node_id)
        if node is not None:
            old, new = words
            attributes = ((f"{key}.new", new), (f"{key}.old", old), ("name", node_name(node)))
            yield Note(kind="node", action="update", id=node_id, attributes=attributes)

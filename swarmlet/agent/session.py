"""The session: connects to a manager, registers, beats, says whether the runtime can run tasks,
reads assignments, and starts over when it ends."""

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from swarmlet.agent.description import OwnDescription
from swarmlet.agent.disconnect import Contact
from swarmlet.agent.inventory import Inventory
from swarmlet.agent.logs import LogPublisher
from swarmlet.agent.removal import Removal
from swarmlet.agent.reporter import Reporter
from swarmlet.agent.streams import StreamServer
from swarmlet.agent.worker import Worker
from swarmlet.core.errors import NodeRemovedError, SwarmError, UnavailableError, first_of
from swarmlet.core.ids import NodeID
from swarmlet.core.limits import CONDITION_LENGTH_MAX
from swarmlet.env.base import Env
from swarmlet.model.node import NodeDescription
from swarmlet.wire.channel import AgentChannel, AgentConnector
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import (
    PROTOCOL_VERSION,
    Assignments,
    CloseLogs,
    Condition,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    OpenLogs,
    OpenStream,
    StatusAck,
    SwarmInfo,
    Welcome,
)

log = logging.getLogger("swarmlet.agent")

BACKOFF_MIN_S: Final = 0.1  # SwarmKit agent/session.go
BACKOFF_MAX_S: Final = 8.0
REGISTER_TIMEOUT_S: Final = 5.0  # for the first message; SwarmKit agent/agent.go
DESCRIBE_PERIOD_S: Final = 20.0  # between looks whether this node has changed
MISSED_BEATS_MAX: Final = 3  # then the manager counts as lost
GOODBYE_TIMEOUT_S: Final = 1.0
LOST_LATELY_S: Final = 5.0
BACK_WAIT_S: Final = 2.0
ANEW_IN_S: Final = 15.0  # what a node promises that registers anew: a slow network takes seconds


_Servers = tuple[LogPublisher, StreamServer]


class SessionLostError(UnavailableError):
    """The session is of no use any more; another one is opened."""

    code = "session-lost"


class SessionRefusedError(SessionLostError):
    """A manager will not have this node, or is none of this swarm."""

    code = "session-refused"


class RegisterAnewError(SessionLostError):
    """The node is not what it said it was: another session is opened at once."""

    code = "register-anew"


class Session:
    """One agent's session after session. `refusal`: why the manager asked last would not have this
    node, until one takes it; `is_removed`: because it was removed; `problem`: how the last try or
    session ended. `on_info` hears what managers tell of the swarm."""

    def __init__(
        self,
        env: Env,
        node_id: NodeID,
        *,
        connector: AgentConnector,
        description: OwnDescription,
        worker: Worker,
        reporter: Reporter,
    ) -> None:
        self._env, self._node_id = env, node_id
        self._connector, self._description = connector, description
        self._worker, self._reporter = worker, reporter
        self._channel: AgentChannel | None = None
        self._session_id = ""
        self._backoff_s = 0.0
        self._is_over = False
        self._alone_since_s = env.clock.mono_s()
        self.contact = Contact(env.clock)
        self._removal = Removal(env.clock, worker)
        self.was_registered = asyncio.Event()
        self.refusal = self.problem = ""
        self.is_removed = False
        self.on_info: Callable[[SwarmInfo], None] = _nothing

    @property
    def is_registered(self) -> bool:
        return self._channel is not None

    def alone_s(self) -> float:
        """For how long there has been no session; 0 while there is one."""
        return 0.0 if self.is_registered else self._env.clock.mono_s() - self._alone_since_s

    async def run(self) -> None:
        """Until cancelled, or after `goodbye`. A node whose runtime is away registers all the same,
        and says so."""
        while not self._is_over:
            seen, must_wait = self._description.credentials(), True
            try:
                await self._one_session()
            except* (UnavailableError, msgspec.MsgspecError, TimeoutError) as lost:
                _forget_abort()
                must_wait = self._note(first_of(lost))
            if must_wait:
                await self._wait(seen)

    def _note(self, cause: Exception) -> bool:
        """Say why there is no session now; whether to wait before the next try."""
        self.problem = str(cause)
        if not isinstance(cause, SessionRefusedError):
            log.info("session.lost", extra={"node_id": self._node_id, "cause": str(cause)})
        elif self.refusal != str(cause):  # once: it is tried again for as long as the daemon runs
            self.refusal = str(cause)
            log.error("session.refused", extra={"node_id": self._node_id, "cause": self.refusal})
        return not isinstance(cause, RegisterAnewError)

    def end(self) -> None:
        """Open no other session, also where an error hides from `run` that it was cancelled."""
        self._is_over = True

    async def is_back(self) -> None:
        """Wait a moment for the next session where one was lost a moment ago, as that of a manager
        is which has just left its group: else nobody hears the goodbye."""
        if self.refusal or self.alone_s() > LOST_LATELY_S:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(BACK_WAIT_S):
                while not self.is_registered:  # noqa: ASYNC110 - a state is no event
                    await asyncio.sleep(0.02)

    async def goodbye(self, goodbye: Goodbye) -> None:
        """End the session in order and open no other; waits a second at most."""
        self.end()
        channel = self._channel
        if channel is not None:
            await _say_goodbye(channel, goodbye)
            channel.close()

    async def tell_condition(self, problem: str) -> None:
        """Say that this node can run no new tasks, if anybody hears it."""
        if self._channel is not None:
            with suppress(UnavailableError):
                await self._channel.send(Condition(problem=problem))

    async def _wait(self, seen: Credentials | None) -> None:
        """Before the next try, unless the node's certificate is another one meanwhile."""
        self._backoff_s = min(BACKOFF_MIN_S + 2 * self._backoff_s, BACKOFF_MAX_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._env.rng.random() * self._backoff_s):
                await self._description.renewed(seen)

    async def _open(self) -> AgentChannel:
        try:
            return await self._connector.open_session()
        except UnavailableError:
            raise
        except SwarmError as refusal:
            self.is_removed = isinstance(refusal, NodeRemovedError)
            if self.is_removed:
                self._removal.said()
            else:
                self._removal.denied()
            raise SessionRefusedError(refusal.message, refusal.remedy) from refusal

    async def _one_session(self) -> None:
        seen = self._description.credentials()
        channel = await self._open()
        try:
            description, problem = self._description.now(), self._worker.runtime.condition.problem
            async with asyncio.timeout(REGISTER_TIMEOUT_S):
                welcome = await self._register(channel, description, problem)
            self._channel, self._backoff_s, self.refusal = channel, 0.0, ""
            self.is_removed = False
            self._removal.denied()
            self.contact.opened()
            self.was_registered.set()
            self._reporter.note_all(self._worker.statuses())
            period_s = welcome.heartbeat_period_s
            async with asyncio.TaskGroup() as group:
                logs = LogPublisher(self._worker.runtime, self._connector, group)
                streams = StreamServer(self._worker, self._connector, group)
                inventory = Inventory(self._worker)
                group.create_task(inventory.hand_over())
                group.create_task(self._read(channel, period_s, inventory, (logs, streams)))
                group.create_task(self._beat(channel, period_s))
                group.create_task(self._watch_description(description))
                group.create_task(self._watch_certificate(seen))
                group.create_task(self._watch_condition(channel, problem, description))
                group.create_task(self._reporter.run(channel))
        except* RegisterAnewError:
            _forget_abort()
            if not self._is_over:  # else another goodbye was said, or none is to be
                await _say_goodbye(channel, Goodbye(back_in_s=ANEW_IN_S))
            raise
        finally:
            if self._channel is not None:
                self._channel, self._alone_since_s = None, self._env.clock.mono_s()
                self.contact.lost()
            channel.close()

    async def _register(
        self, channel: AgentChannel, description: NodeDescription, problem: str
    ) -> Welcome:
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            node_id=self._node_id,
            description=description,
            session_id=self._session_id,
            problem=problem[:CONDITION_LENGTH_MAX],
        )
        await channel.send(hello)
        answer = await channel.receive()
        if not isinstance(answer, Welcome):
            raise SessionLostError("The manager did not answer the registration.")
        if answer.refusal:
            raise SessionRefusedError(answer.refusal)
        self._session_id = answer.session_id
        log.info("session.registered", extra={"node_id": self._node_id})
        return answer

    async def _read(
        self, channel: AgentChannel, period_s: float, inventory: Inventory, servers: _Servers
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(period_s * MISSED_BEATS_MAX):
                    message = await channel.receive()
            except TimeoutError:
                raise SessionLostError("The manager has fallen silent.") from None
            self.contact.heard()
            self._take(message, inventory, servers)

    def _take(self, message: Message, inventory: Inventory, servers: _Servers) -> None:
        logs, streams = servers
        match message:
            case Assignments():
                inventory.take(message)
            case StatusAck(number=number):
                self._reporter.acknowledge(number)
            case OpenLogs():
                logs.open(message)
            case CloseLogs(subscription=subscription):
                logs.close(subscription)
            case OpenStream():
                streams.open(message)
            case SwarmInfo():
                self.on_info(message)
            case Heartbeat():
                pass
            case _:
                raise SessionLostError(f"The manager sent a {type(message).__name__}.")

    async def _beat(self, channel: AgentChannel, period_s: float) -> None:
        while True:
            await channel.send(Heartbeat())
            await asyncio.sleep(period_s * (0.9 + 0.1 * self._env.rng.random()))

    async def _watch_description(self, told: NodeDescription) -> None:
        while True:
            await asyncio.sleep(DESCRIBE_PERIOD_S)
            if self._description.now() != told:
                raise RegisterAnewError("This node has changed and registers anew.")

    async def _watch_certificate(self, seen: Credentials | None) -> None:
        """The old one may be refused soon, and who signed the new one is awaited."""
        await self._description.renewed(seen)
        raise RegisterAnewError("This node has another certificate and registers anew.")

    async def _watch_condition(
        self, channel: AgentChannel, told: str, description: NodeDescription
    ) -> None:
        """Say each change of it. A runtime that is back may be another than the one registered:
        then the node registers anew at once."""
        while True:
            told = await self._worker.runtime.condition.changed(told)
            log.info("session.condition", extra={"node_id": self._node_id, "problem": told})
            if not told and self._description.now() != description:
                raise RegisterAnewError("The node's runtime is back, and registers anew.")
            await channel.send(Condition(problem=told[:CONDITION_LENGTH_MAX]))


async def _say_goodbye(channel: AgentChannel, goodbye: Goodbye) -> None:
    try:
        async with asyncio.timeout(GOODBYE_TIMEOUT_S):
            await channel.send(goodbye)
    except (TimeoutError, UnavailableError) as error:
        log.info("session.goodbye_not_heard", extra={"cause": str(error)})


def _forget_abort() -> None:
    """A task group that fails leaves its task marked as cancelled, and before Python 3.11.3 no
    `asyncio.timeout` of such a task ends in a TimeoutError: the next wait would end `run`."""
    task = asyncio.current_task()
    if sys.version_info < (3, 11, 3) and task is not None:
        task.uncancel()


def _nothing(_: SwarmInfo) -> None:
    """Nobody wants to know."""

"""Watching the engine: one stream of events, and the sentence that says why there is none."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Final

import aiohttp
import msgspec

from swarmlet.env.base import Env
from swarmlet.model.resource_limits import CPU, MEMORY, PIDS, SWAP
from swarmlet.runtime.base import Condition
from swarmlet.runtime.docker.client import (
    EngineClient,
    EngineDownError,
    EngineRefusedError,
    EngineVersion,
)
from swarmlet.runtime.docker.create import ENGINE_LABEL, TASK_LABEL
from swarmlet.runtime.docker.sight import time_ns

log = logging.getLogger("swarmlet.runtime")

PING_PERIOD_S: Final = 10.0
PING_TIMEOUT_S: Final = 10.0
RECONNECT_MIN_S: Final = 0.1
RECONNECT_MAX_S: Final = 2.0
EVENT_SIZE_MAX_B: Final = 1024 * 1024  # it repeats every label
OVERLAP_S: Final = 2  # asked for again at each connect: a stream answers before it listens
_EXIT_CODE: Final = re.compile(r"[0-9]{1,3}")
WATCHED: Final = ("create", "start", "die", "destroy", "health_status", "oom")


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """GET /info, as far as a node's description needs it."""

    class Plugins(msgspec.Struct, frozen=True, kw_only=True):
        volume: list[str] | None = msgspec.field(name="Volume", default=None)
        network: list[str] | None = msgspec.field(name="Network", default=None)
        log: list[str] | None = msgspec.field(name="Log", default=None)

    cpus: int = msgspec.field(name="NCPU", default=0)
    memory_b: int = msgspec.field(name="MemTotal", default=0)
    version: str = msgspec.field(name="ServerVersion", default="")
    architecture: str = msgspec.field(name="Architecture", default="")
    os: str = msgspec.field(name="OSType", default="")
    time: str = msgspec.field(name="SystemTime", default="")
    plugins: Plugins = msgspec.field(name="Plugins", default=Plugins())
    holds_cpu: bool = msgspec.field(name="CpuCfsQuota", default=True)
    holds_memory: bool = msgspec.field(name="MemoryLimit", default=True)
    holds_pids: bool = msgspec.field(name="PidsLimit", default=True)
    holds_swap: bool = msgspec.field(name="SwapLimit", default=True)

    @property
    def limits(self) -> tuple[str, ...]:
        """Those the engine's kernel and rights let it hold containers to: a rootless engine
        without delegation holds none, and warns instead of refusing."""
        held = {
            CPU: self.holds_cpu,
            MEMORY: self.holds_memory,
            PIDS: self.holds_pids,
            SWAP: self.holds_swap,
        }
        return tuple(name for name, is_held in held.items() if is_held)


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Something happened to a container of ours."""

    class Actor_(msgspec.Struct, frozen=True, kw_only=True):
        id: str = msgspec.field(name="ID", default="")
        attributes: dict[str, str] = msgspec.field(name="Attributes", default={})

    action: str = ""
    actor: Actor_ = Actor_()

    @property
    def task_id(self) -> str:
        return self.actor.attributes.get(TASK_LABEL, "")

    @property
    def exit_code(self) -> int | None:
        """As the engine says, or as a label of that name: an image's author may write anything."""
        text = self.actor.attributes.get("exitCode", "")
        return int(text) if _EXIT_CODE.fullmatch(text) else None


class Watcher:
    """Keeps one event stream for as long as `run` runs, and `condition` true to it.

    `on_event` is called with each event of this daemon's containers, `on_connect` after each
    connect: whatever happened before it may have gone unseen.
    """

    def __init__(
        self,
        env: Env,
        client: EngineClient,
        engine_id: str,
        *,
        condition: Condition,
        on_event: Callable[[Event], None],
        on_connect: Callable[[EngineInfo], None],
    ) -> None:
        self._env, self._client, self._engine_id = env, client, engine_id
        self._condition, self._on_event, self._on_connect = condition, on_event, on_connect
        self._was_connected = False

    async def run(self) -> None:
        wait_s = RECONNECT_MIN_S
        while True:
            self._was_connected = False
            try:
                await self._watch()
            except (EngineDownError, EngineRefusedError) as problem:
                if not self._was_connected:  # a stream that broke off is first opened again
                    self._note(problem.message)
            if self._was_connected:
                wait_s = RECONNECT_MIN_S
            await asyncio.sleep(wait_s * self._env.rng.uniform(0.5, 1.0))
            wait_s = min(wait_s * 2, RECONNECT_MAX_S)

    async def _ping(self) -> None:
        try:
            await self._client.call("GET", "/_ping", timeout_s=PING_TIMEOUT_S)
        except EngineDownError as problem:
            self._note(problem.message)
            raise

    def _note(self, problem: str) -> None:
        if self._condition.problem != problem:
            log.warning("engine.away", extra={"problem": problem})
        self._condition.set(problem)

    async def _watch(self) -> None:
        """Connect and listen until the stream breaks off."""
        version = await self._client.negotiate()
        info = await self._client.ask(EngineInfo, "/info")
        since_s = max(0, time_ns(info.time) // 1_000_000_000 - OVERLAP_S)
        filters = {
            "type": ["container"],
            "label": [f"{ENGINE_LABEL}={self._engine_id}"],
            "event": list(WATCHED),
        }
        query = {"since": str(since_s), "filters": msgspec.json.encode(filters).decode()}
        async with self._client.stream("GET", "/events", query) as reader:
            self._connected(version, info)
            async for line in self._lines(reader):
                self._tell(line)
        raise self._client.down("it closed its stream of events")

    def _connected(self, version: EngineVersion, info: EngineInfo) -> None:
        self._was_connected = True
        log.info("engine.connected", extra={"host": self._client.host, "version": version.version})
        self._on_connect(info)
        self._condition.set("")

    def _tell(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=Event)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._client.down(f"an event of it is not understood ({error})") from error
        self._on_event(event)

    async def _lines(self, reader: aiohttp.StreamReader) -> AsyncIterator[bytes]:
        """Whole lines. An engine that is quiet is asked whether it lives."""
        rest = b""
        while True:
            try:
                async with asyncio.timeout(PING_PERIOD_S):
                    data = await reader.readany()
            except TimeoutError:
                await self._ping()
                continue
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > EVENT_SIZE_MAX_B:
                raise self._client.down(f"an event of it is over {EVENT_SIZE_MAX_B} bytes long")
            for line in lines:
                if line.strip():
                    yield line

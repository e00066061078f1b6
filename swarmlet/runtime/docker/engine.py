"""The requests about containers, one method each, and what the engine's answers to them mean."""

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from swarmlet.core.ids import TaskID
from swarmlet.runtime.docker.client import EngineClient, EngineRefusedError
from swarmlet.runtime.docker.create import ENGINE_LABEL, TASK_LABEL, container_name, create_body
from swarmlet.runtime.docker.host_config import Json
from swarmlet.runtime.docker.sight import Sight
from swarmlet.wire.messages import AssignedTask

CREATE_TIMEOUT_S: Final = 120.0  # a large image's first container copies its volumes
START_TIMEOUT_S: Final = 120.0
CONFLICT_TRIES: Final = 40  # while a name is taken by what is not there yet
CONFLICT_PERIOD_S: Final = 0.25
STOP_SLACK_S: Final = 30.0  # above the grace period
DELETE_TIMEOUT_S: Final = 120.0


class _Created(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    id: str


class Listed(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A container as a list has it."""

    id: str
    labels: dict[str, str] | None = None


class Engine:
    """All of one daemon's containers: those that bear its `engine_id`, and no other."""

    def __init__(self, client: EngineClient, engine_id: str) -> None:
        self._client, self._engine_id = client, engine_id

    async def create(self, task: AssignedTask, binds: Sequence[Json] = ()) -> tuple[str, bool]:
        """(container id, whether it is new). One that is there already from an earlier, broken
        request is as good; a stranger of its name is refused in the engine's words."""
        version = await self._client.api_version()
        body = create_body(task, engine_id=self._engine_id, api_version=version, binds=binds)
        for _ in range(CONFLICT_TRIES):
            try:
                return await self._create(container_name(task), body), True
            except EngineRefusedError as refusal:
                if refusal.status != 409:
                    raise
                conflict = refusal
            sight = await self.look(quote(container_name(task), safe=""))
            if sight.is_of(self._engine_id, task.id):
                return sight.id, False
            if not sight.is_gone:
                raise conflict
            await asyncio.sleep(CONFLICT_PERIOD_S)  # a broken request is still being carried out
        raise conflict

    async def _create(self, name: str, body: object) -> str:
        answer = await self._client.call(
            "POST", "/containers/create", {"name": name}, body=body, timeout_s=CREATE_TIMEOUT_S
        )
        try:
            return msgspec.json.decode(answer, type=_Created).id
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._client.down(f"what it says to a create is odd ({error})") from error

    async def start(self, container_id: str) -> None:
        path = f"/containers/{container_id}/start"
        await self._client.call("POST", path, timeout_s=START_TIMEOUT_S)  # running already: 304

    async def stop(self, container_id: str, grace_s: int) -> None:
        """Return when it was killed at the latest; gone or stopped already is success."""
        path, query = f"/containers/{container_id}/stop", {"t": str(grace_s)}
        try:
            await self._client.call("POST", path, query, timeout_s=grace_s + STOP_SLACK_S)
        except EngineRefusedError as refusal:
            if refusal.status != 404:
                raise

    async def delete(self, container_id: str) -> bool:
        """Kill it and remove it with its anonymous volumes; whether it is gone. If not, somebody
        else is at that, and whoever asks again learns when it is done."""
        path, query = f"/containers/{container_id}", {"force": "1", "v": "1"}
        try:
            await self._client.call("DELETE", path, query, timeout_s=DELETE_TIMEOUT_S)
        except EngineRefusedError as refusal:
            if refusal.status == 409 and "in progress" in refusal.message:
                return False
            if refusal.status != 404:
                raise
        return True

    async def look(self, container: str) -> Sight:
        """By id or by name; one that is not there is a Sight too."""
        try:
            return await self._client.ask(Sight, f"/containers/{container}/json")
        except EngineRefusedError as refusal:
            if refusal.status != 404:
                raise
            return Sight(id=container, is_gone=True)

    async def container_ids(self, task_id: TaskID) -> list[str]:
        """In order; a task has one at most."""
        return [one.id for one in await self.containers(task_id)]

    async def containers(self, task_id: TaskID | str = "") -> list[Listed]:
        """Of all tasks, or of one; in order of the ids."""
        labels = [f"{ENGINE_LABEL}={self._engine_id}", TASK_LABEL]
        if task_id:
            labels[1] = f"{TASK_LABEL}={task_id}"
        filters = msgspec.json.encode({"label": labels}).decode()
        query = {"all": "1", "filters": filters}
        listed = await self._client.ask(list[Listed], "/containers/json", query)
        return sorted(listed, key=lambda one: one.id)

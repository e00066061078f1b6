"""The secrets and configs of this node's tasks: in memory alone, for as long as the manager says.

No file, no log line and no error holds a byte of them. A daemon that was restarted has none until
the first complete list of its session.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from swarmlet.agent.expansion import context_of
from swarmlet.model.container import ConfigReference, ContainerSpec, FileTarget, SecretReference
from swarmlet.model.expand import expand_payload
from swarmlet.model.node import NodeDescription
from swarmlet.model.template import TemplateError
from swarmlet.runtime.base import RuntimeProblemError, TaskFile
from swarmlet.wire.messages import AssignedPayload, AssignedTask

GOLANG: Final = "golang"
OWNER_MAX: Final = 2**32 - 2  # the last is no id to the kernel
MODE_MAX: Final = 0o7777
MODE_DEFAULT: Final = 0o444

Key: TypeAlias = tuple[str, str]
"""Kind (secret or config) and id."""


class Payloads:
    """What this node holds. `is_told` once a complete list has said what that is."""

    def __init__(self) -> None:
        self._held: dict[Key, AssignedPayload] = {}
        self.is_told = asyncio.Event()

    def replace(self, held: Mapping[Key, AssignedPayload]) -> None:
        """Hold these and nothing else."""
        self._held = dict(held)
        self.is_told.set()

    def change(self, put: Mapping[Key, AssignedPayload], gone: Iterable[Key]) -> None:
        for key in gone:
            self._held.pop(key, None)
        self._held.update(put)

    def clear(self) -> None:
        """This node leaves."""
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)

    async def files(
        self, task: AssignedTask, describe: Callable[[], NodeDescription]
    ) -> tuple[TaskFile, ...]:
        """What the task is given, secrets first; waits until this node was told what it holds.
        Raises RuntimeProblemError for what is not there, or is a template that does not fit."""
        container = task.spec.container_spec
        if container is None or not (container.secrets or container.configs):
            return ()
        await self.is_told.wait()
        view = _TaskView(self._held, task, container, describe)
        return (
            *(view.file("secret", one.secret_id, one.file) for one in container.secrets),
            *(view.file("config", one.config_id, one.file) for one in _mounted(container)),
        )


class _TaskView:
    """The payloads one task may see: those it refers to."""

    def __init__(
        self,
        held: Mapping[Key, AssignedPayload],
        task: AssignedTask,
        container: ContainerSpec,
        describe: Callable[[], NodeDescription],
    ) -> None:
        self._held, self._task, self._container = held, task, container
        self._describe = describe
        self._problem = ""

    def file(self, kind: str, payload_id: str, target: FileTarget | None) -> TaskFile:
        assert target is not None, "checked by check_references"
        payload = self._payload(kind, payload_id)
        return TaskFile(
            kind=kind,
            name=target.name,
            data=self._expanded(kind, payload),
            uid=_owner(target.uid),
            gid=_owner(target.gid),
            mode=target.mode or MODE_DEFAULT,
        )

    def _payload(self, kind: str, payload_id: str) -> AssignedPayload:
        payload = self._held.get((kind, payload_id))
        if payload is None:
            raise RuntimeProblemError(
                f"unable to get {kind} from {kind} store: {kind} {payload_id} not found",
                remedy=f"It was removed: create another {kind}, and point the service to it.",
            )
        return payload

    def _expanded(self, kind: str, payload: AssignedPayload) -> bytes:
        """The engine's own words may quote what is secret: only where it stopped is told."""
        if not payload.templating:
            return payload.data
        what = f"expanding {kind} {payload.name} failed"
        if payload.templating != GOLANG:
            raise RuntimeProblemError(f"{what}: unrecognized template type: {payload.templating}")
        functions = {"secret": self._secret, "config": self._config, "env": self._env}
        context = context_of(self._task, self._describe())
        try:
            return expand_payload(payload.data, context, functions)
        except TemplateError as error:
            where = self._problem or error.message.partition(":")[0]
        raise RuntimeProblemError(
            f"{what}: {where}",
            remedy="It may use what a service's templates may, and secret, config and env.",
        )

    def _secret(self, target: str) -> str:
        return self._named("secret", target, self._container.secrets)

    def _config(self, target: str) -> str:
        return self._named("config", target, _mounted(self._container))

    def _named(
        self, kind: str, target: str, references: Iterable[SecretReference | ConfigReference]
    ) -> str:
        """As it is stored: what it refers to in turn is not expanded, as in SwarmKit."""
        for one in references:
            if one.file is not None and one.file.name == target:
                payload_id = one.secret_id if isinstance(one, SecretReference) else one.config_id
                payload = self._held.get((kind, payload_id))
                if payload is not None:
                    return payload.data.decode(errors="surrogateescape")
        self._problem = f"{kind} target {target} not found"
        raise ValueError(self._problem)

    def _env(self, name: str) -> str:
        """The value as the spec has it, "" where it has none."""
        for entry in self._container.env:
            key, sign, value = entry.partition("=")
            if sign and key == name:
                return value
        return ""


def check_references(task: AssignedTask) -> None:
    """Raise RuntimeProblemError where no file could be made of a reference, whatever it holds."""
    container = task.spec.container_spec
    if container is None:
        return
    named = [("secret", one.secret_name, one.file) for one in container.secrets]
    named += [("config", one.config_name, one.file) for one in _mounted(container)]
    for kind, name, file in named:
        if file is None or not file.name or "\0" in file.name:
            raise RuntimeProblemError(f"malformed reference to {kind} {name}: no target provided")
        for text in (file.uid, file.gid):
            if _owner(text) < 0:
                raise RuntimeProblemError(
                    f'The {kind} {name} cannot belong to "{text}": an owner is a number here.',
                    remedy="Write uid=1000,gid=1000, or leave them out for root's.",
                )
        if not 0 <= file.mode <= MODE_MAX:
            raise RuntimeProblemError(f"The {kind} {name} cannot have the mode {file.mode}.")


def _mounted(container: ContainerSpec) -> list[ConfigReference]:
    """The configs that are files; one with `runtime` is read by the runtime itself."""
    return [one for one in container.configs if one.runtime is None]


def _owner(text: str) -> int:
    """A uid or gid; 0 where none is given, -1 for no number."""
    if not text:
        return 0
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(OWNER_MAX))
    return int(text) if is_number and int(text) <= OWNER_MAX else -1

"""Small worlds for the store's tests: an env, a loop that skips waiting, rows, histories."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, TypeVar

import msgspec

from swarmlet.core.errors import SwarmError
from swarmlet.env.base import Env
from swarmlet.env.real import RealDisk
from swarmlet.model.change import (
    Assign,
    Change,
    Create,
    Exists,
    Guard,
    Note,
    NotInUse,
    PortFree,
    Remove,
    SetDesired,
    SetNodeStatus,
    SetStatus,
    Update,
)
from swarmlet.model.cluster import Cluster, SwarmSpec
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.container import (
    ConfigReference,
    ContainerSpec,
    CredentialSpec,
    Privileges,
    SecretReference,
)
from swarmlet.model.join_token import JoinToken
from swarmlet.model.network import Network, NetworkSpec
from swarmlet.model.node import Node, NodeCertificate, NodeDescription, NodeSpec, NodeStatus
from swarmlet.model.secret import Secret, SecretSpec
from swarmlet.model.service import (
    Endpoint,
    EndpointSpec,
    NetworkAttachmentConfig,
    PortConfig,
    Service,
    ServiceSpec,
    SpecVersion,
    TaskSpec,
    spec_version_id,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.model.volume import Volume, VolumeSpec
from swarmlet.store.codec import encode_change, encode_entry
from swarmlet.store.store import Store
from tests.store.memory_log import MemoryLog

T = TypeVar("T")
START_MS = 1_700_000_000_000
SERVICE_IDS, TASK_IDS, NODE_IDS = ("sa", "sb", "sc"), tuple(f"t{i}" for i in range(8)), ("n0", "n1")
SECRET_IDS, CONFIG_IDS = ("x0", "x1", "x2"), ("c0", "c1", "c2")
STATES = (0, 64, 192, 512, 576, 704)


class StepClock:
    """Wall time that moves when told to."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def mono_s(self) -> float:
        return self.now_ms / 1000

    def wall_ms(self) -> int:
        return self.now_ms


def seeded_env(seed: int = 0, clock: StepClock | None = None) -> Env:
    rng = Random(seed)

    def inline(work: Callable[[], T]) -> Awaitable[T]:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        done.set_result(work())
        return done

    return Env(
        clock=clock or StepClock(),
        rng=rng,
        entropy=rng.randbytes,
        disk=RealDisk(),
        blocking=inline,
    )


def new_store(seed: int = 0) -> tuple[Store, MemoryLog]:
    store = Store(seeded_env(seed))
    log = MemoryLog(store)
    store.attach(log)
    return store, log


class _SkippingSelector(selectors.DefaultSelector):
    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.skipped_s += timeout or 0.0
        return super().select(0)


def run_skipping(main: Coroutine[Any, Any, T]) -> T:
    """Run on a loop where every wait passes at once."""
    selector = _SkippingSelector()

    class Loop(asyncio.SelectorEventLoop):
        def time(self) -> float:
            return super().time() + selector.skipped_s

    with asyncio.Runner(loop_factory=lambda: Loop(selector)) as runner:
        return runner.run(main)


class Direct:
    """Applies transactions to a store as a log would, without a loop."""

    def __init__(self) -> None:
        self.store = Store(seeded_env())
        self.proposals = 100
        self.entries: list[bytes] = []

    def apply(self, *changes: Change, guards: tuple[Guard, ...] = (), repeat: int = 0) -> str:
        """The refusal's code, or an empty string. `repeat` names an earlier proposal instead."""
        self.proposals += 1
        proposal_id = repeat or self.proposals
        raws = [encode_change(change) for change in changes]
        index = self.store.index + 1
        self.entries.append(encode_entry(proposal_id, START_MS + index, raws, guards))
        self.store.apply(index, self.entries[-1])
        outcome = dict(self.outcomes())[proposal_id]
        return "" if isinstance(outcome, int) else outcome.code

    def refusal(self, *changes: Change, guards: tuple[Guard, ...] = ()) -> SwarmError:
        assert self.apply(*changes, guards=guards), "not refused"
        outcome = self.outcomes()[-1][1]
        error: SwarmError = outcome.error()
        return error

    def outcomes(self) -> list[tuple[int, Any]]:
        return list(self.store._outcomes.items())


# Rows ---------------------------------------------------------------------------------------------
def cluster(row_id: str = "cl") -> Cluster:
    return Cluster(id=row_id, spec=SwarmSpec(name="default"))


def node(row_id: str = "n0", hostname: str = "", **fields: Any) -> Node:
    description = NodeDescription(hostname=hostname or f"Host-{row_id}")
    return Node(id=row_id, spec=NodeSpec(), description=description, **fields)


def config(row_id: str = "c0", name: str = "") -> Config:
    return Config(id=row_id, spec=ConfigSpec(name=name or f"name-{row_id}", data=b"data"))


def secret(row_id: str = "x0", name: str = "") -> Secret:
    return Secret(id=row_id, spec=SecretSpec(name=name or f"name-{row_id}", data=b"data"))


def network(row_id: str = "o0", name: str = "") -> Network:
    return Network(id=row_id, spec=NetworkSpec(name=name or f"name-{row_id}"))


def volume(row_id: str = "v0", name: str = "") -> Volume:
    return Volume(id=row_id, spec=VolumeSpec(name=name or f"name-{row_id}"))


def service(row_id: str = "sa", name: str = "", **fields: Any) -> Service:
    return Service(id=row_id, name=name or f"name-{row_id}", **fields)


def port(number: int, mode: str = "ingress", protocol: str = "tcp") -> PortConfig:
    return PortConfig(published_port=number, publish_mode=mode, protocol=protocol, target_port=80)


def endpoint(*ports: PortConfig) -> Endpoint:
    return Endpoint(ports=ports)


def spec(
    service_id: str = "sa",
    number: int = 1,
    *,
    secrets: tuple[str, ...] = (),
    configs: tuple[str, ...] = (),
    networks: tuple[str, ...] = (),
    ports: tuple[PortConfig, ...] = (),
    credential: str = "",
) -> SpecVersion:
    privileges = Privileges(credential_spec=CredentialSpec(config=credential))
    container = ContainerSpec(
        image="nginx",
        secrets=[SecretReference(secret_id=one) for one in secrets],
        configs=[ConfigReference(config_id=one) for one in configs],
        privileges=privileges if credential else None,
    )
    template = TaskSpec(
        container_spec=container,
        networks=[NetworkAttachmentConfig(target=one) for one in networks],
    )
    body = ServiceSpec(
        name=f"name-{service_id}",
        task_template=template,
        endpoint_spec=EndpointSpec(ports=list(ports)) if ports else None,
    )
    return SpecVersion(
        id=spec_version_id(service_id, number), service_id=service_id, number=number, spec=body
    )


def task(row_id: str = "t0", service_id: str = "sa", *, state: int = 64, **fields: Any) -> Task:
    return Task(id=row_id, service_id=service_id, status=TaskStatus(state=state), **fields)


# Histories ----------------------------------------------------------------------------------------
class History:
    """Random transactions that are mostly, but not always, acceptable."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def changes(self, rows: Callable[[type, str], Any]) -> tuple[Change, ...]:
        """One to four changes; `rows` finds the row that is there."""
        return tuple(self._change(rows) for _ in range(self.rng.randint(1, 4)))

    def guards(self) -> tuple[Guard, ...]:
        rng = self.rng
        if rng.random() < 0.7:
            return ()
        return (
            rng.choice(
                [
                    Exists(table=Secret, id=rng.choice(SECRET_IDS)),
                    NotInUse(table=Secret, id=rng.choice(SECRET_IDS)),
                    NotInUse(table=Config, id=rng.choice(CONFIG_IDS)),
                    PortFree(
                        service_id=rng.choice(SERVICE_IDS),
                        protocol="tcp",
                        port=rng.randint(80, 82),
                        mode=rng.choice(["host", "ingress"]),
                    ),
                ]
            ),
        )

    def _change(self, rows: Callable[[type, str], Any]) -> Change:
        rng = self.rng
        if rng.random() < 0.05:
            return Note(kind="task", action="exec", id=rng.choice(TASK_IDS))
        if rng.random() < 0.5:
            return self._task_change(rows)
        makers = [self._config, self._secret, self._service, self._spec, self._node]
        row = rng.choice([*makers, self._join_token])()
        old = rows(type(row), row.id)
        if old is None:
            return Create(obj=row)
        seen = self._seen(old)
        if rng.random() < 0.4 or isinstance(row, type(spec())):
            return Remove(table=type(row), id=row.id, seen=seen)
        if isinstance(row, Node) and rng.random() < 0.5:
            return SetNodeStatus(id=row.id, status=NodeStatus(state=rng.randint(0, 3)))
        return Update(obj=row, seen=seen)

    def _seen(self, old: Any) -> int:
        return self.rng.choice([old.version] * 8 + [old.version + 1, -1])

    def _config(self) -> Config:
        return config(self.rng.choice(CONFIG_IDS), self.rng.choice(["a", "A", "b", "c", "d"]))

    def _secret(self) -> Secret:
        return secret(self.rng.choice(SECRET_IDS), self.rng.choice(["a", "b", "B", "c", "d"]))

    def _node(self) -> Node:
        certificate = NodeCertificate(csr=self.rng.choice([b"", b"x", b"y"]))
        names = ["h1", "H1", "h2"]
        return node(self.rng.choice(NODE_IDS), self.rng.choice(names), certificate=certificate)

    def _join_token(self) -> JoinToken:
        secret_hash, uses = self.rng.choice([b"h0", b"h1"]), self.rng.randint(0, 3)
        row_id = self.rng.choice(["j0", "j1"])
        return JoinToken(id=row_id, role="worker", secret_hash=secret_hash, uses=uses)

    def _service(self) -> Service:
        given = self.rng.choice([None, endpoint(port(self.rng.randint(80, 82)))])
        return service(
            self.rng.choice(SERVICE_IDS),
            self.rng.choice(["web", "Web", "db", "api", "job"]),
            spec_version=self.rng.randint(1, 2),
            endpoint=given,
        )

    def _spec(self) -> SpecVersion:
        rng = self.rng
        ports = tuple(port(rng.randint(80, 82), rng.choice(["host", "ingress"])) for _ in range(2))
        return spec(
            rng.choice(SERVICE_IDS),
            rng.randint(1, 2),
            secrets=tuple(rng.sample(SECRET_IDS, rng.randint(0, 2))),
            configs=tuple(rng.sample(CONFIG_IDS, rng.randint(0, 2))),
            ports=ports if rng.random() < 0.5 else (),
        )

    def _task_change(self, rows: Callable[[type, str], Any]) -> Change:
        rng = self.rng
        task_id, node_id = rng.choice(TASK_IDS), rng.choice(NODE_IDS)
        old = rows(Task, task_id)
        state = rng.choice(STATES)
        verbs: list[Change] = [
            Assign(id=task_id, node_id=node_id),
            SetStatus(id=task_id, status=TaskStatus(state=state, container_id=rng.choice("ab "))),
            SetStatus(id=task_id, status=TaskStatus(state=state)),
            SetDesired(id=task_id, desired=rng.choice([384, 512, 640, 800])),
        ]
        if old is None:
            made = task(
                task_id,
                rng.choice(SERVICE_IDS),
                slot=rng.randint(0, 2),
                state=rng.choice(STATES[:2]),
                node_id=rng.choice(["", "", "n0"]),
            )
            return rng.choice([Create(obj=made)] * 6 + verbs)
        verbs.append(SetDesired(id=task_id, desired=640, seen=self._seen(old)))
        verbs.append(Remove(table=Task, id=task_id, seen=self._seen(old)))
        changed = msgspec.structs.replace(
            old, slot=rng.randint(0, 2), desired=rng.choice([512, 640])
        )
        verbs.append(Update(obj=changed, seen=self._seen(old)))
        return rng.choice(verbs)


assert TaskState.PENDING in STATES

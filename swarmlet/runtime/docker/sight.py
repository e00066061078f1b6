"""What the engine says of one container, and what that means for its task. Pure."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from swarmlet.core.ids import TaskID
from swarmlet.model.service import PortConfig
from swarmlet.runtime.base import NEVER_STARTED, Exit, RuntimeTask, Started
from swarmlet.runtime.docker.create import ENGINE_LABEL, TASK_LABEL

DESTROYED: Final = "container destroyed"  # moby's words, daemon/cluster/executor/container
LOST_EXIT_CODE: Final = 137  # of a container that is gone: it was killed
UNHEALTHY_STATUS: Final = "unhealthy"
_OVER: Final = ("exited", "dead", "removing")
_HEALTHY: Final = ("", "none", "healthy")
_NANO_DIGITS: Final = 9
_PORT: Final = re.compile(r"[0-9]{1,5}")


class _Health(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    status: str = ""


class _State(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    status: str = ""
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""
    health: _Health | None = None


class _Config(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    labels: dict[str, str] | None = None
    tty: bool = False


class _Binding(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    host_ip: str = ""
    host_port: str = ""


class _Endpoint(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    ip_address: str = msgspec.field(name="IPAddress", default="")
    ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")


class _Network(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    ports: dict[str, list[_Binding] | None] | None = None
    networks: dict[str, _Endpoint | None] | None = None


class _HostConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    network_mode: str = ""


class Sight(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """GET /containers/ID/json, as far as a task is concerned. `is_gone`: there was none."""

    id: str
    state: _State = _State()
    config: _Config = _Config()
    network_settings: _Network = _Network()
    host_config: _HostConfig = _HostConfig()
    is_gone: bool = False

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels or {}

    @property
    def task_id(self) -> TaskID:
        return TaskID(self.labels.get(TASK_LABEL, ""))

    @property
    def was_started(self) -> bool:
        """Whether its process ever ran; a start that failed left it created."""
        return not self.is_gone and time_ns(self.state.started_at) > 0

    @property
    def is_over(self) -> bool:
        return self.is_gone or self.state.status in _OVER

    @property
    def runs(self) -> bool:
        return self.was_started and not self.is_over

    @property
    def health(self) -> str:
        return self.state.health.status if self.state.health else ""

    @property
    def is_on_host_network(self) -> bool:
        return self.host_config.network_mode == "host"

    @property
    def addresses(self) -> list[str]:
        """On its networks, in order of their names; IPv4 first."""
        networks = self.network_settings.networks or {}
        ends = [end for _, end in sorted(networks.items()) if end is not None]
        found = [*(end.ip_address for end in ends), *(end.ipv6_address for end in ends)]
        return [address for address in found if address]

    def is_of(self, engine_id: str, task_id: str) -> bool:
        return self.labels.get(ENGINE_LABEL) == engine_id and self.task_id == task_id


def unseen(container_id: str, labels: dict[str, str]) -> Sight:
    """Of a container that the engine lists and cannot say more of. It counts as running: who waits
    for it asks again, and stops it."""
    state = _State(status="running", started_at="1970-01-01T00:00:01Z")
    return Sight(id=container_id, state=state, config=_Config(labels=labels))


def is_healthy(sight: Sight) -> bool:
    """Also where nothing checks its health."""
    return sight.health in _HEALTHY


def is_unhealthy(sight: Sight) -> bool:
    return sight.runs and sight.health == UNHEALTHY_STATUS


def exit_of(sight: Sight, *, now_ms: int, told_exit: int | None) -> Exit:
    """How a container that does not run ended. `told_exit`: what an event said of one gone."""
    state = sight.state
    if sight.is_gone:
        code = LOST_EXIT_CODE if told_exit is None else told_exit
        return Exit(exit_code=code, at_ms=now_ms, problem=DESTROYED)
    at_ms = time_ns(state.finished_at) // 1_000_000 or now_ms
    problem = "" if sight.was_started else state.error or NEVER_STARTED
    return Exit(exit_code=state.exit_code, at_ms=at_ms, problem=problem, was_oom=state.oom_killed)


def started(sight: Sight, wanted: Iterable[tuple[str, str, int, int]] | None) -> Started:
    """`wanted`: the task's ports as (name, protocol, target, published); None: all it has."""
    return Started(container_id=sight.id, pid=sight.state.pid, ports=tuple(_ports(sight, wanted)))


def runtime_task(sight: Sight, now_ms: int) -> RuntimeTask:
    """For adoption. Created and not started is known, and no more."""
    if not sight.was_started:
        return RuntimeTask(task_id=sight.task_id)
    end = exit_of(sight, now_ms=now_ms, told_exit=None) if sight.is_over else None
    return RuntimeTask(task_id=sight.task_id, started=started(sight, None), exit=end)


def _ports(
    sight: Sight, wanted: Iterable[tuple[str, str, int, int]] | None
) -> Iterable[PortConfig]:
    bound = {
        key: _host_ports(bindings or ())
        for key, bindings in sorted((sight.network_settings.ports or {}).items())
    }
    if wanted is None:
        wanted = [
            ("", protocol, int(target), port)
            for key, ports in bound.items()
            for target, _, protocol in (key.partition("/"),)
            if _PORT.fullmatch(target)
            for port in ports
        ]
    for name, protocol, target, published in wanted:
        free = bound.get(f"{target}/{protocol or 'tcp'}", [])
        given = published if published in free else next(iter(free), 0)
        if given:
            free.remove(given)
            yield PortConfig(
                name=name,
                protocol=protocol or "tcp",
                target_port=target,
                published_port=given,
                publish_mode="host",
            )


def _host_ports(bindings: Iterable[_Binding]) -> list[int]:
    """Each port once: an engine tells the IPv4 and the IPv6 side of one apart."""
    ordered = sorted(bindings, key=lambda binding: ":" in binding.host_ip)
    with_v4 = [b for b in ordered if ":" not in b.host_ip] or ordered
    return list(dict.fromkeys(int(b.host_port) for b in with_v4 if _PORT.fullmatch(b.host_port)))


def time_ns(text: str) -> int:
    """RFC 3339 with up to nine decimals, as ns since 1970; 0 for the zero time and for no time."""
    if len(text) < len("2006-01-02T15:04:05Z") or text.startswith("0001-"):
        return 0
    rest = text[19:]
    zone_at = next((at for at, char in enumerate(rest) if char in "Z+-"), len(rest))
    fraction, zone = rest[:zone_at].lstrip("."), rest[zone_at:]
    try:
        moment = datetime.fromisoformat(text[:19] + ("+00:00" if zone in ("", "Z") else zone))
        nanos = int(fraction[:_NANO_DIGITS].ljust(_NANO_DIGITS, "0"))
        return int(moment.astimezone(UTC).timestamp()) * 1_000_000_000 + nanos
    except (ValueError, OverflowError):
        return 0

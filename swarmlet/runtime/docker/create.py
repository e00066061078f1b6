"""From a task to the body of the engine's POST /containers/create: pure.

Follows moby's executor of swarm tasks, so that a task is the same container in either.
"""

from collections.abc import Sequence
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import NS_PER_S
from swarmlet.model.container import ContainerSpec, HealthConfig
from swarmlet.model.reference import parse_reference
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.docker.host_config import Json, given, host_config, port_bindings
from swarmlet.runtime.docker.refusals import refuse_newer, refuse_options
from swarmlet.wire.messages import AssignedTask

ENGINE_LABEL: Final = "swarmlet.engine"
"""Says which daemon a container belongs to; others may use the same engine."""
SYSTEM_LABEL: Final = "com.docker.swarm"
TASK_LABEL: Final = f"{SYSTEM_LABEL}.task.id"


def container_name(task: AssignedTask) -> str:
    """Docker's: `<service>.<slot>.<task id>`."""
    return task.task_name


def image_name(image: str) -> str:
    """The reference an engine is asked for: with a tag or a digest, never without both. Raises
    RuntimeProblemError where it is none."""
    try:
        reference = parse_reference(image)
    except InvalidArgumentError as error:
        raise RuntimeProblemError(error.message, error.remedy) from error
    return image if reference.tag or reference.digest else f"{image}:latest"


def create_body(
    task: AssignedTask, *, engine_id: str, api_version: str, binds: Sequence[Json] = ()
) -> Json:
    """The whole body. `engine_id` is this daemon's own; `api_version`, as `1.41`, the one spoken to
    the engine; `binds` are mounts beside the spec's (deliveries). Raises RuntimeProblemError for
    what `refuse_options` refuses and for fields that are younger than the engine."""
    refuse_options(task)
    container = task.spec.container_spec
    assert container is not None, "checked by refuse_options"
    refuse_newer(container, api_version)
    return {
        "Image": image_name(container.image),
        "Labels": _labels(task, container, engine_id),
        "Tty": container.tty,
        "OpenStdin": container.open_stdin,
        "HostConfig": host_config(task, container, binds),
        **given(
            {
                "Entrypoint": container.command,
                "Cmd": container.args,
                "Env": container.env,
                "Hostname": container.hostname,
                "User": container.user,
                "WorkingDir": container.dir,
                "StopSignal": container.stop_signal,
                "ExposedPorts": {port: {} for port in port_bindings(task)},
                "Healthcheck": _healthcheck(container.healthcheck),
            }
        ),
        **_stop_timeout(container),
    }


def _labels(task: AssignedTask, container: ContainerSpec, engine_id: str) -> dict[str, str]:
    """The system's own win over the spec's."""
    return {
        **container.labels,
        f"{SYSTEM_LABEL}.task": "",
        TASK_LABEL: task.id,
        f"{SYSTEM_LABEL}.task.name": container_name(task),
        f"{SYSTEM_LABEL}.node.id": task.node_id,
        f"{SYSTEM_LABEL}.service.id": task.service_id,
        f"{SYSTEM_LABEL}.service.name": task.service_name,
        ENGINE_LABEL: engine_id,
    }


def _healthcheck(health: HealthConfig | None) -> Json:
    """Zero and an empty test are inherited from the image, and so left out."""
    if health is None:
        return {}
    return given(
        {
            "Test": health.test,
            "Interval": health.interval,
            "Timeout": health.timeout,
            "StartPeriod": health.start_period,
            "StartInterval": health.start_interval,
            "Retries": health.retries,
        }
    )


def _stop_timeout(container: ContainerSpec) -> Json:
    """For whoever else stops the container, in whole seconds; the engine's own default is also the
    swarm's."""
    if container.stop_grace_period is None:
        return {}
    return {"StopTimeout": -(-container.stop_grace_period // NS_PER_S)}

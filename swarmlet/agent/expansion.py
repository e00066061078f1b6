"""A task as its runtime sees it: templates expanded with what is known of this node, and told
which of its generic resources are the task's own."""

from collections.abc import Callable

from msgspec.structs import replace

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.expand import TaskContext, expand_task, has_templates
from swarmlet.model.generic_resources import variables
from swarmlet.model.node import NodeDescription
from swarmlet.model.validate_mount import check_mounts
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.wire.messages import AssignedTask


def expanded(task: AssignedTask, describe: Callable[[], NodeDescription]) -> AssignedTask:
    """The task without templates; `describe` is asked only where there are some. Raises
    RuntimeProblemError where one does not fit, or makes a mount that is none."""
    task = _told(task)
    container = task.spec.container_spec
    if container is None or not has_templates(container):
        return task
    try:
        spec = expand_task(task.spec, context_of(task, describe()))
        assert spec.container_spec is not None, "expanding takes no part away"
        check_mounts(spec.container_spec.mounts)
    except InvalidArgumentError as error:
        raise RuntimeProblemError(error.message, error.remedy) from error
    return replace(task, spec=spec)


def _told(task: AssignedTask) -> AssignedTask:
    """The task with its generic resources among its variables, as SwarmKit's agents tell it."""
    container = task.spec.container_spec
    if container is None or not task.generic_resources:
        return task
    env = [*container.env, *variables(task.generic_resources)]
    return replace(task, spec=replace(task.spec, container_spec=replace(container, env=env)))


def context_of(task: AssignedTask, node: NodeDescription) -> TaskContext:
    """What the templates of a task can name on this node."""
    return TaskContext(
        service_id=task.service_id,
        service_name=task.service_name,
        service_labels=task.service_labels,
        node_id=task.node_id,
        hostname=node.hostname,
        os=node.platform.os,
        architecture=node.platform.architecture,
        task_id=task.id,
        task_name=task.task_name,
        slot=str(task.slot if task.slot or task.is_numbered else task.node_id),
    )

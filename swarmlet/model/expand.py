"""Templates in a spec: what a task's environment, mounts and host name say once it is placed.

SwarmKit's rules (its packages template and controlapi): these fields and no others, `.Service`,
`.Node` and `.Task`, a map's missing key is an error. The agent expands; the manager tries
beforehand with made-up values. What a secret or config says may be a template too; no manager tries
those.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.container import ContainerSpec, Mount, VolumeOptions
from swarmlet.model.service import ServiceSpec, TaskSpec
from swarmlet.model.template import Template, TemplateError
from swarmlet.model.template import compile as compile_template
from swarmlet.model.template_functions import FUNCTIONS

_MARK: Final = "{{"

_Expand = Callable[[str, str], str]
"""What is expanded, in words, and its text; the text as it is for this task."""


class TaskContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a template can name. `slot` is the node's id in a global service's tasks."""

    service_id: str
    service_name: str
    service_labels: dict[str, str]
    node_id: str
    hostname: str
    os: str
    architecture: str
    task_id: str
    task_name: str
    slot: str


def expand_task(spec: TaskSpec, context: TaskContext) -> TaskSpec:
    """The spec without templates. Raises InvalidArgumentError that says which field is wrong and
    where."""
    container = spec.container_spec
    if container is None or not has_templates(container):
        return spec
    data = _data(context)

    def expand(what: str, text: str) -> str:
        return _expanded(what, text, data)

    return replace(spec, container_spec=_container(container, expand))


def expand_payload(
    data: bytes, context: TaskContext, functions: Mapping[str, Callable[[str], str]]
) -> bytes:
    """What a templated secret or config says to this task; `functions` are given beside the usual
    ones. Raises TemplateError, whose words may show what is secret."""
    text = data.decode(errors="surrogateescape")
    template = compile_template(text, functions={**FUNCTIONS, **functions})
    return template.render(_data(context)).encode(errors="surrogateescape")


def has_templates(container: ContainerSpec) -> bool:
    """Whether expanding can change anything."""
    texts = [container.hostname, *container.env]
    for mount in container.mounts:
        texts += (mount.source, mount.target)
        if mount.volume_options is not None:
            texts += mount.volume_options.labels.values()
            if mount.volume_options.driver_config is not None:
                texts += mount.volume_options.driver_config.options.values()
    return any(_MARK in text for text in texts)


def check_templates(spec: ServiceSpec) -> None:
    """Raises InvalidArgumentError where no task of this service could be made from its templates.
    The service's name and labels are the true ones, all else is made up."""
    context = TaskContext(
        service_id="serviceid",
        service_name=spec.name,
        service_labels=spec.labels,
        node_id="nodeid",
        hostname="hostname",
        os="linux",
        architecture="x86_64",
        task_id="taskid",
        task_name="taskname",
        slot="1",
    )
    expand_task(spec.task_template, context)


def _data(context: TaskContext) -> dict[str, Any]:
    return {
        "Service": {
            "ID": context.service_id,
            "Name": context.service_name,
            "Labels": context.service_labels,
        },
        "Node": {
            "ID": context.node_id,
            "Hostname": context.hostname,
            "Platform": {"OS": context.os, "Architecture": context.architecture},
        },
        "Task": {"ID": context.task_id, "Name": context.task_name, "Slot": context.slot},
    }


def _expanded(what: str, text: str, data: Mapping[str, Any]) -> str:
    if _MARK not in text:
        return text
    try:
        template: Template = compile_template(text)
        return template.render(data)
    except TemplateError as error:
        raise InvalidArgumentError(f"expanding {what} failed: {error.message}", error.remedy) from (
            error
        )


# The fields ---------------------------------------------------------------------------------------
def _container(container: ContainerSpec, expand: _Expand) -> ContainerSpec:
    return replace(
        container,
        env=[_variable(entry, expand) for entry in container.env],
        mounts=[_mount(mount, expand) for mount in container.mounts],
        hostname=expand("hostname", container.hostname),
    )


def _variable(entry: str, expand: _Expand) -> str:
    """The value alone; a name without a value is left as it is."""
    name, sign, value = entry.partition("=")
    return f"{name}={expand(f'env {name}', value)}" if sign else entry


def _mount(mount: Mount, expand: _Expand) -> Mount:
    options = mount.volume_options
    return replace(
        mount,
        source=expand("mount source", mount.source),
        target=expand("mount target", mount.target),
        volume_options=_volume(options, expand) if options is not None else None,
    )


def _volume(options: VolumeOptions, expand: _Expand) -> VolumeOptions:
    driver = options.driver_config
    if driver is not None:
        driver = replace(driver, options=_map("volume driver option", driver.options, expand))
    return replace(
        options, labels=_map("volume label", options.labels, expand), driver_config=driver
    )


def _map(what: str, texts: Mapping[str, str], expand: _Expand) -> dict[str, str]:
    return {name: expand(f"{what} {name}", text) for name, text in texts.items()}

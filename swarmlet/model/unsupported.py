"""What a valid spec may ask for that is not built yet: refused with 501, stored nowhere.

Each entry leaves this module with the work that makes it true.
"""

from swarmlet.core.errors import UnsupportedError
from swarmlet.model.cluster import SwarmSpec
from swarmlet.model.container import ContainerSpec
from swarmlet.model.secret import SecretSpec
from swarmlet.model.service import ServiceSpec

_MOUNT_TYPES = ("npipe", "cluster", "image")


def refuse_service(spec: ServiceSpec) -> None:
    """Raises UnsupportedError for the first thing that cannot be done."""
    task = spec.task_template
    if task.plugin_spec is not None or task.network_attachment_spec is not None:
        raise UnsupportedError(
            "services of the plugin and attachment runtimes are not supported",
            remedy="Give a ContainerSpec.",
        )
    assert task.container_spec is not None, "checked by validate_service"
    _refuse_container(task.container_spec)
    if spec.endpoint_spec is not None and any(
        port.publish_mode != "host" for port in spec.endpoint_spec.ports
    ):
        raise UnsupportedError(
            "publishing a port through the ingress network is not supported yet",
            remedy="Publish it on the task's own node: "
            "--publish mode=host,target=PORT,published=PORT",
        )


def _refuse_container(spec: ContainerSpec) -> None:
    credential = spec.privileges.credential_spec if spec.privileges is not None else None
    if credential is not None and credential.config:
        raise UnsupportedError(
            "credential specs from configs are not supported: they are for Windows",
            remedy="Leave CredentialSpec out.",
        )
    for mount in spec.mounts:
        if mount.type in _MOUNT_TYPES:
            raise UnsupportedError(
                f"mounts of type {mount.type} are not supported",
                remedy="Use a mount of type bind, volume or tmpfs.",
            )


def refuse_secret(spec: SecretSpec) -> None:
    """Secret drivers are plugins, and there are none."""
    if spec.driver is not None:
        raise UnsupportedError(
            "secret drivers are not supported", remedy="Create the secret with its data."
        )


def refuse_swarm(spec: SwarmSpec, old: SwarmSpec | None = None) -> None:
    """`old` is the present spec in an update, None at init."""
    config = spec.ca_config
    if old is None and (config.signing_ca_cert or config.signing_ca_key):
        raise UnsupportedError(
            "a new swarm makes its own root certificate authority",
            remedy="Rotate to yours once the swarm is there: "
            "`swarmlet ca --rotate --ca-cert FILE --ca-key FILE`.",
        )

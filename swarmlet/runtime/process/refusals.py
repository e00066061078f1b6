"""What the process runtime cannot give a task: refused in words, never silently left out."""

from collections.abc import Callable
from typing import Final

from swarmlet.model.container import ContainerSpec, DNSConfig, Privileges
from swarmlet.model.reference import HOST_IMAGES
from swarmlet.model.resource_limits import CPU, SWAP, limits_of
from swarmlet.model.service import TaskSpec
from swarmlet.runtime.base import RuntimeProblemError

_LEAVE_OUT: Final = "Leave the option out, or run the service where a container runtime is."

_CONTAINER: Final[tuple[tuple[str, Callable[[ContainerSpec], object]], ...]] = (
    ("a read-only root filesystem", lambda c: c.read_only),
    ("a terminal", lambda c: c.tty),
    ("an open standard input", lambda c: c.open_stdin),
    ("entries in its hosts file", lambda c: c.hosts),
    ("name servers of its own", lambda c: c.dns_config and c.dns_config != DNSConfig()),
    ("kernel parameters (sysctls)", lambda c: c.sysctls),
    ("additional capabilities", lambda c: c.capability_add),
    ("other privileges", lambda c: c.privileges and _wants_more(c.privileges)),
    ("another isolation", lambda c: c.isolation not in ("", "default")),
)
_TASK: Final[tuple[tuple[str, Callable[[TaskSpec], object]], ...]] = (
    ("a plugin", lambda t: t.plugin_spec),
    ("an attachment to a network", lambda t: t.network_attachment_spec),
    ("a limit of its CPUs", lambda t: CPU in limits_of(t.resources)),
    ("swap settings", lambda t: SWAP in limits_of(t.resources)),
)


def refuse_options(spec: TaskSpec) -> ContainerSpec:
    """The container spec of a task this runtime can run. Raises RuntimeProblemError."""
    for what, asks in _TASK:
        if asks(spec):
            raise _refusal(what)
    container = spec.container_spec
    if container is None or spec.runtime not in ("", "container"):
        raise RuntimeProblemError(
            "The task has no ContainerSpec, and this runtime runs nothing else.",
            remedy="Give a ContainerSpec with the image host.",
        )
    if container.image not in HOST_IMAGES:
        raise RuntimeProblemError(
            f'The process runtime runs the image "host", the node\'s own files, not '
            f'"{container.image}".',
            remedy="Use the image host, or run the service where a container runtime is.",
        )
    for what, wants in _CONTAINER:
        if wants(container):
            raise _refusal(what)
    return container


def _refusal(what: str) -> RuntimeProblemError:
    return RuntimeProblemError(f"The process runtime cannot give a task {what}.", remedy=_LEAVE_OUT)


def _wants_more(privileges: Privileges) -> bool:
    """Nothing is asked for by no_new_privileges, which every task has, and by what switches off."""
    seccomp, app_armor = privileges.seccomp, privileges.app_armor
    selinux = privileges.selinux_context
    return (
        privileges.credential_spec is not None
        or (selinux is not None and not selinux.disable)
        or (seccomp is not None and seccomp.mode not in ("", "unconfined"))
        or (app_armor is not None and app_armor.mode not in ("", "disabled"))
    )

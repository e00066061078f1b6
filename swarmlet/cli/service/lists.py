"""The flags of `service update` that add to a list of the spec and take from it, as a table.

What is added replaces what it is the same as, in its place, so that adding what is there changes
nothing and no task is replaced. What is removed and added is there in the end, as in docker.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import click

from swarmlet.cli.client import Json, Object
from swarmlet.cli.options import pairs_of
from swarmlet.cli.service import values
from swarmlet.cli.service.flags import CONTAINER, RESERVATIONS, TASK, Path, at

F = TypeVar("F", bound=Callable[..., Any])

_DNS: Final[Path] = (*CONTAINER, "DNSConfig")


def _same(item: Json, text: str) -> bool:
    return bool(item == text)


def _is_host(item: Json, text: str) -> bool:
    """NAME removes every address of it, NAME:IP that one."""
    name, _, address = text.partition(":")
    first, *names = item.split()
    return name in names and address in ("", first)


class ListFlag(NamedTuple):
    """`read` makes an item of a flag's value; items of one `identity` are the same; `is_gone` tells
    whether the value of a removing flag (`gone`, where it looks another way) means an item."""

    name: str
    path: Path
    metavar: str
    text: str
    read: Callable[[str], Json] = str
    identity: Callable[[Json], str] = str
    is_gone: Callable[[Json, str], bool] = _same
    gone: str = ""

    def key(self, verb: str) -> str:
        """The parameter's name for `add` or `rm`."""
        return f"{self.name}_{verb}".replace("-", "_")


def _target(mount: Json) -> str:
    return str(mount.get("Target", ""))


def _ulimit(limit: Json) -> str:
    return str(limit.get("Name", ""))


LISTS: Final = (
    ListFlag("constraint", (*TASK, "Placement", "Constraints"), "TEXT", "constraint"),
    ListFlag(
        "placement-pref",
        (*TASK, "Placement", "Preferences"),
        "TEXT",
        "way to spread the tasks",
        values.preference_of,
        lambda item: json.dumps(item, sort_keys=True),
        lambda item, text: bool(item == values.preference_of(text)),
    ),
    ListFlag(
        "mount",
        (*CONTAINER, "Mounts"),
        "MOUNT",
        "mount",
        values.mount_of,
        _target,
        lambda item, text: _target(item) == text,
        "TARGET",
    ),
    ListFlag("group", (*CONTAINER, "Groups"), "GROUP", "further group of the user"),
    ListFlag(
        "host",
        (*CONTAINER, "Hosts"),
        "NAME:IP",
        "line of /etc/hosts",
        values.host_of,
        str,
        _is_host,
    ),
    ListFlag("dns", (*_DNS, "Nameservers"), "IP", "name server"),
    ListFlag("dns-search", (*_DNS, "Search"), "DOMAIN", "search domain"),
    ListFlag("dns-option", (*_DNS, "Options"), "OPTION", "resolver option"),
    ListFlag(
        "ulimit",
        (*CONTAINER, "Ulimits"),
        "NAME=SOFT[:HARD]",
        "resource limit",
        values.ulimit_of,
        _ulimit,
        lambda item, text: _ulimit(item) == text,
        "NAME",
    ),
    ListFlag(
        "generic-resource",
        (*RESERVATIONS, "GenericResources"),
        "KIND=N",
        "resource to reserve",
        values.resource_of,
        values.kind_of,
        lambda item, text: values.kind_of(item) == text,
        "KIND",
    ),
)

_SYSCTLS: Final[Path] = (*CONTAINER, "Sysctls")


def list_options(command: F) -> F:
    """Give `command` the adding and the removing flag of every list."""
    rows = [("--cap-add", "CAP", "A capability to add, and to drop no more.")]
    rows += [("--cap-drop", "CAP", "A capability to drop.")]
    for flag in LISTS:
        rows += [(f"--{flag.name}-add", flag.metavar, f"Add or change a {flag.text}.")]
        rows += [(f"--{flag.name}-rm", flag.gone or flag.metavar, f"Remove a {flag.text}.")]
    rows += [("--sysctl-add", "KEY=VALUE", "Add or change a kernel setting.")]
    rows += [("--sysctl-rm", "KEY", "Remove a kernel setting.")]
    for name, metavar, text in reversed(rows):
        command = click.option(name, multiple=True, metavar=metavar, help=text)(command)
    return command


def change_lists(spec: Object, options: Mapping[str, Json]) -> None:
    """Apply all of these flags that were given. Raises click.UsageError for a wrong value."""
    for flag in LISTS:
        added, removed = options[flag.key("add")], options[flag.key("rm")]
        if added or removed:
            place = at(spec, flag.path[:-1])
            place[flag.path[-1]] = _changed(place.get(flag.path[-1]) or (), flag, added, removed)
    _change_sysctls(spec, options["sysctl_add"], options["sysctl_rm"])
    _change_capabilities(spec, options["cap_add"], options["cap_drop"])


def _changed(
    items: Iterable[Json], flag: ListFlag, added: Iterable[str], removed: Iterable[str]
) -> list[Json]:
    gone = list(removed)
    kept = {
        flag.identity(item): item
        for item in items
        if not any(flag.is_gone(item, text) for text in gone)
    }
    new = [flag.read(text) for text in added]
    return list((kept | {flag.identity(item): item for item in new}).values())


def _change_sysctls(spec: Object, added: Iterable[str], removed: Iterable[str]) -> None:
    new, gone = pairs_of(added), set(removed)
    if new or gone:
        place = at(spec, _SYSCTLS[:-1])
        old = place.get(_SYSCTLS[-1]) or {}
        place[_SYSCTLS[-1]] = {key: old[key] for key in old if key not in gone} | new


def _change_capabilities(spec: Object, added: Iterable[str], dropped: Iterable[str]) -> None:
    """One that is added is dropped no more, and the other way round; of both, it is dropped."""
    less = [values.capability_of(text) for text in dropped]
    more = [name for name in map(values.capability_of, added) if name not in less]
    container = at(spec, CONTAINER)
    for field, new, other in (("CapabilityAdd", more, less), ("CapabilityDrop", less, more)):
        if more or less:
            kept = [name for name in container.get(field) or () if name not in other]
            container[field] = list(dict.fromkeys([*kept, *new]))

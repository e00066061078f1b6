"""Values of flags that have a grammar of their own: ports, mounts, ulimits, hosts, environment."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import click

from swarmlet.cli.client import Object
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import PORT_MAX
from swarmlet.model.size import parse_size

ENV_FILE_SIZE_MAX_B: Final = 4_194_304  # no request may be longer
_PROTOCOLS: Final = ("tcp", "udp", "sctp")
_MODES: Final = ("ingress", "host")
_SWITCH: Final = {"": True, "true": True, "1": True, "false": False, "0": False}


def fields_of(text: str, flag: str, known: Iterable[str]) -> list[tuple[str, str]]:
    """`a=1,b=2` as pairs, quoted as CSV is; a field without = has an empty value."""
    try:
        row = next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration):
        raise click.UsageError(
            f"Invalid value for {flag}: {text!r} is no KEY=VALUE list."
        ) from None
    pairs: list[tuple[str, str]] = []
    for field in row:
        key, _, value = field.strip().partition("=")
        if key.lower() not in known:
            raise click.UsageError(
                f"Invalid value for {flag}: unknown field {key!r} in {text!r}. "
                f"Known are {', '.join(known)}."
            )
        pairs.append((key.lower(), value))
    return pairs


# Ports ------------------------------------------------------------------------------------------
def ports_of(text: str) -> list[Object]:
    """`[PUBLISHED:]TARGET[/PROTOCOL]` with ranges, or mode=host,target=80,published=8080."""
    if "=" in text:
        return [_long_port(text)]
    rest, slash, protocol = text.partition("/")
    published, colon, target = rest.rpartition(":")
    if ":" in published:
        raise _port_error(text, "an address in it is not supported")
    targets = _port_range(text, target)
    publisheds = _port_range(text, published) if colon else range(len(targets))
    if len(publisheds) != len(targets):
        raise _port_error(text, "both ranges must be equally long")
    kind = _one_of(text, "protocol", protocol.lower() if slash else "tcp", _PROTOCOLS)
    pairs = zip(targets, publisheds, strict=True)
    return [_port(kind, t, p if colon else 0, "ingress") for t, p in pairs]


def _long_port(text: str) -> Object:
    known = ("target", "published", "protocol", "mode")
    given = dict(fields_of(text, "--publish", known))
    if "target" not in given:
        raise _port_error(text, "target=PORT is missing")
    protocol = _one_of(text, "protocol", given.get("protocol", "tcp").lower(), _PROTOCOLS)
    mode = _one_of(text, "mode", given.get("mode", "ingress").lower(), _MODES)
    published = given.get("published", "0")
    return _port(
        protocol,
        _port_number(text, given["target"]),
        _port_number(text, published) if published != "0" else 0,
        mode,
    )


def _port(protocol: str, target: int, published: int, mode: str) -> Object:
    port: Object = {"Protocol": protocol, "TargetPort": target}
    if published:
        port["PublishedPort"] = published
    return {**port, "PublishMode": mode}


def _port_range(text: str, part: str) -> range:
    first, dash, last = part.partition("-")
    low = _port_number(text, first)
    high = _port_number(text, last) if dash else low
    if high < low:
        raise _port_error(text, f"the range {part} is empty")
    return range(low, high + 1)


def _port_number(text: str, part: str) -> int:
    if not part.isascii() or not part.isdigit() or not 0 < int(part) <= PORT_MAX:
        raise _port_error(text, f"{part!r} is no port from 1 to {PORT_MAX}")
    return int(part)


def _one_of(text: str, what: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise _port_error(text, f"{what} must be {' or '.join(known)}, not {value!r}")
    return value


def _port_error(text: str, why: str) -> click.UsageError:
    return click.UsageError(
        f"Invalid value for --publish {text!r}: {why}. "
        "Write 8080:80, or mode=host,target=80,published=8080."
    )


# Mounts -----------------------------------------------------------------------------------------
_RECURSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "enabled": (),
    "disabled": ("NonRecursive",),
    "writable": ("ReadOnlyNonRecursive",),
    "readonly": ("ReadOnlyForceRecursive",),
}
_MOUNT_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "type": ("Type",),
    "source": ("Source",),
    "src": ("Source",),
    "target": ("Target",),
    "dst": ("Target",),
    "destination": ("Target",),
    "readonly": ("ReadOnly",),
    "ro": ("ReadOnly",),
    "consistency": ("Consistency",),
    "bind-propagation": ("BindOptions", "Propagation"),
    "bind-nonrecursive": ("BindOptions", "NonRecursive"),
    "bind-recursive": ("BindOptions",),
    "volume-nocopy": ("VolumeOptions", "NoCopy"),
    "volume-driver": ("VolumeOptions", "DriverConfig", "Name"),
    "volume-label": ("VolumeOptions", "Labels"),
    "volume-opt": ("VolumeOptions", "DriverConfig", "Options"),
    "volume-subpath": ("VolumeOptions", "Subpath"),
    "image-subpath": ("ImageOptions", "Subpath"),
    "tmpfs-size": ("TmpfsOptions", "SizeBytes"),
    "tmpfs-mode": ("TmpfsOptions", "Mode"),
}


def mount_of(text: str) -> Object:
    """type=bind,source=/host,target=/inside,readonly and docker's other fields."""
    mount: Object = {"Type": "volume"}
    for key, value in fields_of(text, "--mount", _MOUNT_FIELDS):
        if key == "bind-recursive":
            mount.setdefault("BindOptions", {}).update(_recursion(text, value))
            continue
        *way, field = _MOUNT_FIELDS[key]
        place = mount
        for part in way:
            place = place.setdefault(part, {})
        if field in ("Labels", "Options"):
            name, _, setting = value.partition("=")
            place.setdefault(field, {})[name] = setting
        else:
            place[field] = _mount_value(text, key, value)
    if not mount.get("Target"):
        raise click.UsageError(f"Invalid value for --mount {text!r}: target is missing.")
    if mount.get("Source", "").startswith("."):
        mount["Source"] = os.path.abspath(mount["Source"])
    return mount


def _recursion(text: str, value: str) -> Object:
    """What becomes of mounts below a bind mount's source."""
    if value not in _RECURSIONS:
        raise click.UsageError(
            f"Invalid value for --mount {text!r}: bind-recursive cannot be {value!r}. "
            f"Known are {', '.join(_RECURSIONS)}."
        )
    return dict.fromkeys(_RECURSIONS[value], True)


def _mount_value(text: str, key: str, value: str) -> object:
    try:
        if key in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive"):
            return _SWITCH[value.lower()]
        if key == "tmpfs-size":
            return parse_size(value)
        if key in ("type", "bind-propagation"):
            return value.lower()
        return int(value, 8) if key == "tmpfs-mode" else value
    except (KeyError, ValueError, InvalidArgumentError):
        raise click.UsageError(
            f"Invalid value for --mount {text!r}: {key} cannot be {value!r}."
        ) from None


# Small ones -------------------------------------------------------------------------------------
def ulimit_of(text: str) -> Object:
    """nofile=1024 or nofile=1024:2048."""
    name, _, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    try:
        return {"Name": name, "Hard": int(hard if colon else soft), "Soft": int(soft)}
    except ValueError:
        raise click.UsageError(
            f"Invalid value for --ulimit: {text!r} is not NAME=SOFT[:HARD]."
        ) from None


def host_of(text: str) -> str:
    """name:ip as a line of /etc/hosts."""
    name, colon, address = text.partition(":")
    if not name or not colon or not address:
        raise click.UsageError(f"Invalid value for --host: {text!r} is not NAME:IP.")
    return f"{address} {name}"


def resource_of(text: str) -> Object:
    """gpu=2; a resource with a name of its own cannot be reserved."""
    kind, _, number = text.partition("=")
    if not kind or not number.isascii() or not number.isdigit():
        raise click.UsageError(f"Invalid value for --generic-resource: {text!r} is not KIND=N.")
    return {"DiscreteResourceSpec": {"Kind": kind, "Value": int(number)}}


def kind_of(resource: Object) -> str:
    """The kind of a generic resource in a spec."""
    named = resource.get("DiscreteResourceSpec") or resource.get("NamedResourceSpec") or {}
    return str(named.get("Kind", ""))


def preference_of(text: str) -> Object:
    """spread=node.labels.zone, service==web or service!=web."""
    strategy, _, descriptor = text.partition("=")
    if text.lower().startswith(("service==", "service!=")):  # as docker's client could say it too
        strategy, descriptor = "spread", text
    if strategy != "spread" or not descriptor:
        raise click.UsageError(
            f"Invalid value for --placement-pref: {text!r} is not spread=node.labels.KEY, "
            "service==NAME or service!=NAME."
        )
    return {"Spread": {"SpreadDescriptor": descriptor}}


def capability_of(text: str) -> str:
    name = text.strip().upper()
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


def environment(texts: Iterable[str], files: Iterable[str], base: Iterable[str] = ()) -> list[str]:
    """KEY=VALUE lines; a bare KEY takes this shell's value; the last of a key wins."""
    found: dict[str, str] = {}
    for text in [*base, *_env_lines(files), *texts]:
        key, equals, _ = text.partition("=")
        if not key:
            raise click.UsageError(f"Invalid value for --env: {text!r} has no name.")
        found.pop(key, None)
        is_known = not equals and key in os.environ
        found[key] = f"{key}={os.environ[key]}" if is_known else text
    return list(found.values())


def _env_lines(files: Iterable[str]) -> Iterator[str]:
    """Lines of files without comments; a bare name this shell does not know is left out."""
    for name in files:
        with click.open_file(name, "rb") as stream:
            text = _text_of(stream.read(ENV_FILE_SIZE_MAX_B), name)
        for raw in text.split("\n"):
            line = raw.rstrip("\r").lstrip()
            if line and not line.startswith("#") and ("=" in line or line in os.environ):
                yield line


def _text_of(content: bytes, name: str) -> str:
    with suppress(UnicodeDecodeError):
        if len(content) < ENV_FILE_SIZE_MAX_B and b"\0" not in content:
            return content.decode()
    raise click.UsageError(f"Invalid value for --env-file: {name} is no text of KEY=VALUE lines.")

"""The two bases of all structs, and how Python names become the Docker API's."""

from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

_ACRONYMS: Final = {
    "ca": "CA",
    "cas": "CAs",
    "cpus": "CPUs",
    "dns": "DNS",
    "gid": "GID",
    "id": "ID",
    "ids": "IDs",
    "ip": "IP",
    "ipam": "IPAM",
    "ips": "IPs",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "os": "OS",
    "pid": "PID",
    "selinux": "SELinux",
    "tls": "TLS",
    "tty": "TTY",
    "uid": "UID",
    "url": "URL",
}


def api_name(field: str) -> str:
    """The Docker API's name of a Python field: `nano_cpus` is `NanoCPUs`."""
    return "".join(_ACRONYMS.get(word, word.capitalize()) for word in field.split("_"))


def always(value: T) -> T:
    """A field that is printed even where it has this value, as Docker prints it."""
    field: T = msgspec.field(default_factory=lambda: value)
    return field


def hidden(value: object) -> str:
    """The `__repr__` of whatever holds a secret: log lines and tracebacks must not show it."""
    return f"{type(value).__name__}(***)"


class ApiStruct(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, rename=api_name
):
    """A value that users send and get in the Docker API's own words."""


class Empty(ApiStruct, frozen=True, kw_only=True):
    """An object of the API without any field, such as `Global: {}`."""


class Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A row of the store or a part of one. Positional: append with defaults, never reorder."""


class Driver(ApiStruct, frozen=True, kw_only=True):
    """A named plugin with its options: log driver, secret driver, templating, volume driver."""

    name: str = ""
    options: dict[str, str] = {}

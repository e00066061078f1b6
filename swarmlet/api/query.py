"""Query parameters, read and refused as Docker reads and refuses them."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Final

import msgspec
from multidict import MultiDictProxy

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import NS_PER_S

REGISTRY_AUTH: Final = "X-Registry-Auth"
UINT64_MAX: Final = 2**64 - 1
_FALSE: Final = frozenset({"", "0", "no", "false", "none"})
_STRICT: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_TIME: Final = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)


def flag(query: MultiDictProxy[str], name: str) -> bool:
    """Go's BoolValue: anything but a few words for no is yes."""
    return query.get(name, "").strip().lower() not in _FALSE


def strict_flag(query: MultiDictProxy[str], name: str) -> bool:
    """Go's ParseBool; absent is no. Raises InvalidArgumentError."""
    text = query.get(name, "")
    if not text:
        return False
    value = _STRICT.get(text)
    if value is None:
        raise InvalidArgumentError(f"invalid value for {name}: {text}")
    return value


def object_version(query: MultiDictProxy[str], kind: str) -> int:
    """The `version` an update was made from. Raises InvalidArgumentError in Go's words."""
    text = query.get("version", "")
    cause = "invalid syntax"
    if text.isascii() and text.isdigit():
        if len(text) <= 20 and int(text) <= UINT64_MAX:
            return int(text)
        cause = "value out of range"
    raise InvalidArgumentError(
        f"invalid {kind} version '{text}': strconv.ParseUint: parsing {json.dumps(text)}: {cause}",
        remedy=f"Send ?version= with the Version.Index the {kind} has now.",
    )


def time_ns(query: MultiDictProxy[str], name: str) -> int:
    """A time as `seconds[.fraction]` since 1970; absent is 0. Raises InvalidArgumentError."""
    text = query.get(name, "")
    if not text:
        return 0
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidArgumentError(
            f"invalid value for {name}: {text}",
            remedy="Send seconds since 1970, such as 1700000000.5.",
        )
    return int(match[1]) * NS_PER_S + int((match[2] or "0").ljust(9, "0"))


def registry_auth(headers: Mapping[str, str]) -> str:
    """X-Registry-Auth as it was sent, padded: base64 for URLs of a JSON object; "" where there is
    none. Raises InvalidArgumentError, which tells nothing of what is in it."""
    text = headers.get(REGISTRY_AUTH, "").rstrip("=")
    padded = text + "=" * (-len(text) % 4)
    problem = "" if _BASE64URL.fullmatch(text) else "illegal base64 data"
    try:
        if text and not problem:
            msgspec.json.decode(base64.urlsafe_b64decode(padded), type=dict)
    except binascii.Error:
        problem = "illegal base64 data"
    except (ValueError, msgspec.MsgspecError, RecursionError):
        problem = "must be a valid JSON object"
    if problem:
        raise InvalidArgumentError(
            f"invalid {REGISTRY_AUTH} header: {problem}",
            remedy="Send a JSON object in the base64 of URLs, as docker does.",
        )
    return padded


def tail_lines(query: MultiDictProxy[str]) -> int:
    """How many lines from the end; -1 for all. Raises InvalidArgumentError."""
    text = query.get("tail", "")
    if text in ("", "all"):
        return -1
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidArgumentError(
            f"invalid value for tail: {text}", remedy='Send a number of lines, or "all".'
        )
    return int(text)

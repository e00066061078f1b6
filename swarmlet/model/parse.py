"""From the bytes of an API request to a spec, or a sentence that says what is wrong and where.

Reads as Docker's server does (Go's encoding/json): names match whatever their case, unknown
fields are ignored, null is the field's zero value, an empty body is `{}`, and a value of another
type is an error. Readers are built once per type; after that a field costs one dictionary look-up.
"""

import binascii
from collections.abc import Callable
from functools import cache
from types import NoneType, UnionType
from typing import Final, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec

from swarmlet.core.errors import InvalidArgumentError

S = TypeVar("S", bound=msgspec.Struct)

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1

_Read: TypeAlias = Callable[[object], object]
"""From a decoded JSON value, never None, to the field's value. Raises `_MismatchError`."""

_decode = msgspec.json.Decoder().decode


class _MismatchError(Exception):
    """A value that does not fit. The way to it is gathered, innermost first, while unwinding."""

    def __init__(self, expected: str, value: object, got: str = "") -> None:
        super().__init__()
        self.expected = expected
        self.got = got or _kind(value)
        self.way: list[str] = []

    def sentence(self) -> str:
        """Such as "TaskTemplate.ContainerSpec.Env must be a list of strings, not a number"."""
        path = "".join(reversed(self.way)).lstrip(".") or "the request's body"
        return f"{path} must be {self.expected}, not {self.got}"


class _Type(msgspec.Struct, frozen=True):
    """How values of a type are read, what null in a list stands for, and the words for it."""

    read: _Read
    zero: Callable[[], object]
    one: str
    many: str


def parse(struct: type[S], raw: bytes) -> S:
    """The struct a request's body describes. Raises InvalidArgumentError; never repeats a value."""
    if not raw or raw.isspace():
        return struct()
    try:
        value = _decode(raw)
    except msgspec.MsgspecError as problem:
        raise InvalidArgumentError(f"invalid JSON: {_malformed(str(problem))}") from None
    except UnicodeDecodeError:
        raise InvalidArgumentError("invalid JSON: it is not UTF-8") from None
    except RecursionError:
        raise InvalidArgumentError("invalid JSON: it is nested too deeply") from None
    if value is None:
        return struct()
    try:
        read = _type_of(struct).read(value)
    except _MismatchError as problem:
        raise InvalidArgumentError(problem.sentence()) from None
    assert isinstance(read, struct)
    return read


def _malformed(text: str) -> str:
    if text == "Input data was truncated":
        return "unexpected end of the input"
    return text.removeprefix("JSON is malformed: ")


def _kind(value: object) -> str:
    names = {bool: "true or false", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "null" if value is None else "a number")


# The table of types ------------------------------------------------------------------------------
@cache
def _type_of(hint: object) -> _Type:
    simple = _SIMPLE.get(hint)
    if simple is not None:
        return simple
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct_type(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _optional_type(args)
    if origin in (list, tuple):
        return _list_type(args[0], list if origin is list else tuple)
    assert origin is dict, f"no JSON form is known for {hint}"
    assert args[0] is str
    return _dict_type(args[1])


def _optional_type(args: tuple[object, ...]) -> _Type:
    inner = [arg for arg in args if arg is not NoneType]
    assert len(inner) == 1, f"a union of several types has no JSON form: {args}"
    base = _type_of(inner[0])
    return _Type(base.read, lambda: None, base.one, base.many)


def _struct_type(struct: type[msgspec.Struct]) -> _Type:
    fields: dict[str, tuple[str, str, _Read]] = {}
    for field in msgspec.structs.fields(struct):
        entry = (field.name, "." + field.encode_name, _later(field.type))
        fields[field.encode_name] = fields[field.encode_name.lower()] = entry

    def read(value: object) -> object:
        if type(value) is not dict:
            raise _MismatchError("an object", value)
        found: dict[str, object] = {}
        for key, item in value.items():
            entry = fields.get(key) or fields.get(key.lower())
            if entry is None or item is None:
                continue
            try:
                found[entry[0]] = entry[2](item)
            except _MismatchError as problem:
                problem.way.append(entry[1])
                raise
        return struct(**found)

    return _Type(read, struct, "an object", "objects")


def _later(hint: object) -> _Read:
    return _type_of(hint).read


def _list_type(item_hint: object, build: Callable[[list[object]], object]) -> _Type:
    item = _type_of(item_hint)
    read_item, zero, expected = item.read, item.zero, f"a list of {item.many}"

    def read(value: object) -> object:
        if type(value) is not list:
            raise _MismatchError(expected, value)
        found: list[object] = []
        for element in value:
            try:
                found.append(zero() if element is None else read_item(element))
            except _MismatchError as problem:
                problem.way.append(f"[{len(found)}]")
                raise
        return found if build is list else build(found)

    return _Type(read, lambda: build([]), expected, "lists")


def _dict_type(value_hint: object) -> _Type:
    item = _type_of(value_hint)
    read_item, zero, expected = item.read, item.zero, f"an object of {item.many}"

    def read(value: object) -> object:
        if type(value) is not dict:
            raise _MismatchError(expected, value)
        found: dict[str, object] = {}
        for key, element in value.items():
            try:
                found[key] = zero() if element is None else read_item(element)
            except _MismatchError as problem:
                problem.way.append(f"[{key}]")
                raise
        return found

    return _Type(read, dict, expected, "objects")


# Scalars -----------------------------------------------------------------------------------------
def _read_str(value: object) -> object:
    if type(value) is not str:
        raise _MismatchError("a string", value)
    return value


def _read_bool(value: object) -> object:
    if type(value) is not bool:
        raise _MismatchError("true or false", value)
    return value


def _read_int(value: object) -> object:
    if type(value) is not int:
        is_float = type(value) is float
        raise _MismatchError("an integer", value, "a number with a fraction" if is_float else "")
    if not _INT_MIN <= value <= _INT_MAX:
        raise _MismatchError("an integer", value, "one that needs more than 64 bits")
    return value


def _read_float(value: object) -> object:
    if type(value) is float:
        return value
    if type(value) is not int:
        raise _MismatchError("a number", value)
    if not _INT_MIN <= value <= _INT_MAX:
        raise _MismatchError("a number", value, "one that needs more than 64 bits")
    return float(value)


def _read_bytes(value: object) -> object:
    if type(value) is not str:
        raise _MismatchError("base64 text", value)
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:  # Go's decoder skips line ends; whatever else is wrong stays wrong
        unbroken = value.replace("\r", "").replace("\n", "")
    try:
        return binascii.a2b_base64(unbroken, strict_mode=True)
    except ValueError:
        raise _MismatchError("base64 text", value, "a string of another form") from None


_SIMPLE: Final[dict[object, _Type]] = {
    str: _Type(_read_str, str, "a string", "strings"),
    bool: _Type(_read_bool, bool, "true or false", "true or false"),
    int: _Type(_read_int, int, "an integer", "integers"),
    float: _Type(_read_float, float, "a number", "numbers"),
    bytes: _Type(_read_bytes, bytes, "base64 text", "base64 texts"),
}

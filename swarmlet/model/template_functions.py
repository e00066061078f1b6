"""The functions a template may call, and how a value is printed. Pure; wrong use is a TypeError or
ValueError with the sentence that `template` shows together with the place."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

_VERB: Final = re.compile(r"%([-+ 0#]*)(\d*)(?:\.(\d+))?(.)", re.DOTALL)
_WIDTH_MAX: Final = 1_000  # characters a printf verb may be padded to
TEXT_LENGTH_MAX: Final = 4_194_304  # characters a function may make of its values
_WORD: Final = re.compile(r"(?:^|(?<=\s))\S")

Value = Any
"""Whatever JSON can hold: None, bool, int, float, str, list or dict."""


def printed(value: Value, *, is_inner: bool = False) -> str:
    """`value` as Go's %v prints it."""
    if value is None:
        return "<nil>" if is_inner else "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
    if isinstance(value, Mapping):
        pairs = (f"{key}:{printed(value[key], is_inner=True)}" for key in sorted(value))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(printed(item, is_inner=True) for item in value)}]"
    return str(value)


def _index(container: Value, *keys: Value) -> Value:
    """`index x 1 "k"` is x[1]["k"]; a key that is not there gives ""."""
    for key in keys:
        if isinstance(container, Mapping):
            container = container.get(key, "") if isinstance(key, str) else ""
        elif isinstance(container, list | tuple):
            container = _item(container, key)
        else:
            raise TypeError(f"{printed(container)!r} is neither a list nor a map")
    return container


def _item(items: Value, key: Value) -> Value:
    if not isinstance(key, int) or isinstance(key, bool):
        raise TypeError(f"{printed(key)!r} is no position in a list")
    if not 0 <= key < len(items):
        raise ValueError(f"{key} is out of range, the list has {len(items)}")
    return items[key]


def _join(*parts: Value) -> str:
    """Docker's `join .List ","`, and SwarmKit's `join "," "a" "b"`."""
    if len(parts) == 2 and isinstance(parts[0], list | tuple):
        items, separator = parts
    elif parts:
        separator, *items = parts
    else:
        raise TypeError("a list and a separator are needed")
    if not isinstance(separator, str):
        raise TypeError("the separator must be a text")
    return _together((printed(item) for item in items), separator)


def _together(parts: Iterable[str], separator: str = "") -> str:
    """Joined, unless that is too long: a text that doubles itself is soon larger than memory."""
    kept: list[str] = []
    length = 0
    for part in parts:
        length += len(part) + len(separator)
        if length > TEXT_LENGTH_MAX:
            raise ValueError(f"it makes a text of more than {TEXT_LENGTH_MAX} characters")
        kept.append(part)
    return separator.join(kept)


def _json(value: Value) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _upper(text: Value) -> str:
    return _text(text).upper()


def _lower(text: Value) -> str:
    return _text(text).lower()


def _title(text: Value) -> str:
    return _WORD.sub(lambda match: match.group().upper(), _text(text))


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{printed(value)!r} is no text")
    return value


def _len(value: Value) -> int:
    """Entries of a list or map; bytes of a text, as in Go."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | tuple | Mapping):
        return len(value)
    raise TypeError(f"{printed(value)!r} has no length")


def _print(*values: Value) -> str:
    """Go's Sprint: a space between two operands neither of which is a text."""
    return _together(_operands(values))


def _operands(values: tuple[Value, ...]) -> Iterator[str]:
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            yield " "
        yield printed(value)


def _println(*values: Value) -> str:
    return _together((printed(value) for value in values), " ") + "\n"


def _printf(form: Value, *values: Value) -> str:
    """%s %v %d %q %t %f %x %% with flags and a width."""
    left = list(values)
    text = _together(_pieces(_text(form), left))
    if left:
        raise ValueError(f"{len(left)} more values than verbs")
    return text


def _pieces(form: str, left: list[Value]) -> Iterator[str]:
    at = 0
    for match in _VERB.finditer(form):
        yield form[at : match.start()]
        yield _verb(match, left)
        at = match.end()
    yield form[at:]


def _verb(match: re.Match[str], left: list[Value]) -> str:
    flags, width, precision, verb = match.groups()
    if verb == "%":
        return "%"
    if int(width or 0) > _WIDTH_MAX or int(precision or 0) > _WIDTH_MAX:
        raise ValueError(f"{match.group()} is wider than {_WIDTH_MAX} characters")
    if verb not in _VERBS:
        raise ValueError(f"%{verb} is not known, only {', '.join('%' + v for v in _VERBS)}")
    if not left:
        raise ValueError(f"no value for {match.group()}")
    kind, made = _VERBS[verb](left.pop(0))
    spec = f"%{flags}{width}" + (f".{precision}" if precision and kind in "sf" else "") + kind
    return str(spec % (made,))


def _number(value: Value, verb: str) -> Value:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"%{verb} needs a number, not {printed(value)!r}")
    return value


_VERBS: Final[Mapping[str, Callable[[Value], tuple[str, Value]]]] = {
    "s": lambda value: ("s", printed(value)),
    "v": lambda value: ("s", printed(value)),
    "q": lambda value: ("s", json.dumps(printed(value), ensure_ascii=False)),
    "t": lambda value: ("s", printed(value)),
    "d": lambda value: ("d", _number(value, "d")),
    "f": lambda value: ("f", _number(value, "f")),
    "x": lambda value: ("x", int(_number(value, "x"))),
}


def _eq(first: Value, *others: Value) -> bool:
    """Whether `first` equals one of the others."""
    if not others:
        raise TypeError("two values are needed")
    return any(_is_comparable(first, other) and first == other for other in others)


def _is_comparable(left: Value, right: Value) -> bool:
    """Python takes True for 1; Go does not."""
    return isinstance(left, bool) is isinstance(right, bool)


def _ordered(left: Value, right: Value) -> tuple[Value, Value]:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (left, right))
    if not numbers and not (isinstance(left, str) and isinstance(right, str)):
        raise TypeError(f"{printed(left)!r} and {printed(right)!r} have no order")
    return left, right


def _lt(left: Value, right: Value) -> bool:
    left, right = _ordered(left, right)
    return bool(left < right)


FUNCTIONS: Final[Mapping[str, Callable[..., Value]]] = {
    "index": _index,
    "join": _join,
    "json": _json,
    "upper": _upper,
    "lower": _lower,
    "title": _title,
    "len": _len,
    "print": _print,
    "printf": _printf,
    "println": _println,
    "eq": _eq,
    "ne": lambda left, right: not _eq(left, right),
    "lt": _lt,
    "le": lambda left, right: not _lt(right, left),
    "gt": lambda left, right: _lt(right, left),
    "ge": lambda left, right: not _lt(left, right),
    "and": lambda *values: all(values),  # decided in template, which looks at no more than it must
    "or": lambda *values: any(values),
    "not": lambda value: not value,
}

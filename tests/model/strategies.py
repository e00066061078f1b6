"""Random specs, built from the structs' own annotations."""

from functools import cache
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

_SIMPLE = {
    str: st.text(max_size=8),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bytes: st.binary(max_size=16),
}


@cache
def values(hint: object) -> st.SearchStrategy:
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        inner = next(arg for arg in args if arg is not NoneType)
        return st.none() | values(inner)
    if origin is list:
        return st.lists(values(args[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(st.text(max_size=4), values(args[1]), max_size=2)
    return specs(hint)


@cache
def specs(struct: type[msgspec.Struct]) -> st.SearchStrategy:
    """Any value of the struct; each field is left out in half of the cases."""
    fields = {field.name: values(field.type) for field in msgspec.structs.fields(struct)}
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: struct(**given))

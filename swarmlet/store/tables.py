"""Rows by id, and the indexes over them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from swarmlet.model.change import Object
from swarmlet.model.view import IndexKey

Row = TypeVar("Row", bound=Object)

Postings: TypeAlias = dict[IndexKey, "str | dict[str, None]"]
"""Ids by key in order of arrival. One id alone stands for itself: most slots have one task."""

_NOBODY: Final[dict[str, None]] = {}


class Index(msgspec.Struct, frozen=True):
    """How rows are found: `key` gives a row's key, or None where the row is not listed.

    With `is_many`, it gives any number of distinct keys.
    """

    key: Callable[[Any], Any]
    is_many: bool = False


class Table(Generic[Row]):
    """Rows by id with secondary indexes; knows nothing of versions and views.

    Cost: a put computes every built index's key of the old and the new row; `count` and `get` are
    O(1). A lazy table builds an index when it is first asked for: overlays are small and seldom
    scanned.
    """

    __slots__ = ("_indexes", "_many", "_postings", "_single", "rows")

    def __init__(self, indexes: Mapping[str, Index], *, is_lazy: bool = False) -> None:
        self.rows: dict[str, Row] = {}
        self._indexes = indexes
        self._postings: dict[str, Postings] = {}
        self._single: list[tuple[Callable[[Any], Any], Postings]] = []
        self._many: list[tuple[Callable[[Any], Any], Postings]] = []
        if not is_lazy:
            for name in indexes:
                self._build(name)

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, row_id: str) -> Row | None:
        return self.rows.get(row_id)

    def ids(self, index: str, key: IndexKey) -> Iterable[str]:
        """Ids listed under `key`; valid until the table changes."""
        listed = self._of(index).get(key, _NOBODY)
        return (listed,) if isinstance(listed, str) else listed

    def holds(self, index: str, key: IndexKey, row_id: str) -> bool:
        """Whether a row is listed under `key`."""
        listed = self._of(index).get(key, _NOBODY)
        return listed == row_id if isinstance(listed, str) else row_id in listed

    def scan(self, index: str, key: IndexKey) -> Iterator[Row]:
        rows = self.rows
        for row_id in tuple(self.ids(index, key)):
            row = rows.get(row_id)
            if row is not None:
                yield row

    def count(self, index: str, key: IndexKey) -> int:
        listed = self._of(index).get(key, _NOBODY)
        return 1 if isinstance(listed, str) else len(listed)

    def all(self) -> Iterator[Row]:
        return iter(tuple(self.rows.values()))

    def put(self, row: Row) -> None:
        """Insert a row or replace the one of its id."""
        row_id = row.id
        old = self.rows.get(row_id)
        self.rows[row_id] = row
        for key_of, postings in self._single:
            key = key_of(row)
            if old is not None:
                key_before = key_of(old)
                if key_before == key:
                    continue
                if key_before is not None:
                    _unlist(postings, key_before, row_id)
            if key is not None:
                _list(postings, key, row_id)
        for keys_of, postings in self._many:
            _relist(postings, keys_of(old) if old is not None else (), keys_of(row), row_id)

    def remove(self, row_id: str) -> None:
        """Remove a row that is there."""
        old = self.rows.pop(row_id)
        for key_of, postings in self._single:
            key = key_of(old)
            if key is not None:
                _unlist(postings, key, row_id)
        for keys_of, postings in self._many:
            _relist(postings, keys_of(old), (), row_id)

    def _of(self, index: str) -> Postings:
        postings = self._postings.get(index)
        return self._build(index) if postings is None else postings

    def _build(self, name: str) -> Postings:
        index, postings = self._indexes[name], Postings()
        self._postings[name] = postings
        (self._many if index.is_many else self._single).append((index.key, postings))
        for row in self.rows.values():
            keys = index.key(row)
            for key in keys if index.is_many else (keys,):
                if key is not None:
                    _list(postings, key, row.id)
        return postings


def _list(postings: Postings, key: IndexKey, row_id: str) -> None:
    listed = postings.get(key)
    if listed is None:
        postings[key] = row_id
    elif isinstance(listed, str):
        postings[key] = {listed: None, row_id: None}
    else:
        listed[row_id] = None


def _unlist(postings: Postings, key: IndexKey, row_id: str) -> None:
    listed = postings[key]
    if isinstance(listed, str) or len(listed) == 1:
        del postings[key]
    else:
        del listed[row_id]


def _relist(
    postings: Postings, before: Iterable[IndexKey], after: Iterable[IndexKey], row_id: str
) -> None:
    if before == after:
        return
    for key in before:
        _unlist(postings, key, row_id)
    for key in after:
        _list(postings, key, row_id)

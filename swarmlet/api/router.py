"""From a method and a path to a handler.

aiohttp's own router tries every versioned route in turn; this one looks up the few of the same
method, length and first part.
"""

from collections.abc import Iterable
from urllib.parse import unquote

from swarmlet.api.call import Route

Parts = tuple[str, ...]


def path_parts(raw_path: str) -> Parts:
    """`/a/b%20c` is ("a", "b c"): an encoded slash stays inside its part."""
    parts = tuple(raw_path.removeprefix("/").split("/"))
    return tuple(map(unquote, parts)) if "%" in raw_path else parts


def _match(pattern: Parts, parts: Parts) -> Parts | None:
    """What the open parts of the pattern are, or None."""
    names = []
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{"):
            if not part:
                return None
            names.append(part)
        elif wanted != part:
            return None
    return tuple(names)


class RouteTable:
    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_shape: dict[tuple[str, int, str], list[tuple[Parts, Route]]] = {}
        self._greedy: list[tuple[Parts, Route]] = []
        for route in routes:
            pattern = tuple(route.path.removeprefix("/").split("/"))
            if any(part.endswith("*}") for part in pattern):
                self._greedy.append((pattern, route))
            else:
                shape = (route.method, len(pattern), pattern[0])
                self._by_shape.setdefault(shape, []).append((pattern, route))

    def find(self, method: str, parts: Parts) -> tuple[Route, Parts] | None:
        for pattern, route in self._by_shape.get((method, len(parts), parts[0]), ()):
            names = _match(pattern, parts)
            if names is not None:
                return route, names
        for pattern, route in self._greedy:
            if route.method == method and (names := _match_greedy(pattern, parts)) is not None:
                return route, names
        return None


def _match_greedy(pattern: Parts, parts: Parts) -> Parts | None:
    """One open part at most; it takes all its neighbours leave (image names have slashes)."""
    at = next(i for i, part in enumerate(pattern) if part.endswith("*}"))
    behind = len(pattern) - at - 1
    end = len(parts) - behind
    if end <= at or parts[:at] != pattern[:at] or parts[end:] != pattern[at + 1 :]:
        return None
    return ("/".join(parts[at:end]),)

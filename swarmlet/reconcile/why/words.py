"""How spans, amounts and names are written in a sentence."""

from typing import Final

from swarmlet.core.limits import MS_PER_S, NS_PER_S
from swarmlet.model.node import Node
from swarmlet.reconcile.scheduler.shortages import CPU, MEMORY

_SPANS: Final = ((86_400, "day", "days"), (3_600, "h", "h"), (60, "min", "min"))
_ENOUGH: Final = 2  # of a unit, before it is used: 90 s, then 2 min
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_KIBI: Final = 1024


def span(span_ms: int) -> str:
    """A time's length as people say it: 12 s, 3 min, 5 h, 2 days."""
    seconds = max(0, span_ms) // MS_PER_S
    for unit_s, _, name in _SPANS:
        if seconds >= _ENOUGH * unit_s:
            return f"{seconds // unit_s} {name}"
    return f"{seconds} s"


def left(until_ms: int, now_ms: int) -> str:
    """How long it is until then, rounded up: 1 s is never shown as 0."""
    return span(until_ms - now_ms + MS_PER_S - 1)


def size(size_b: int) -> str:
    """200 MiB, 1.5 GiB: at most one decimal, never less than it is."""
    value, unit = size_b, 0
    while value >= _KIBI and unit < len(_UNITS) - 1:
        value = -(-value // _KIBI)
        unit += 1
    tenths = -(-10 * size_b // _KIBI**unit)
    return f"{_tenths(tenths)} {_UNITS[unit]}"


def cpus(cpu_nano: int) -> str:
    """0.5 CPUs, 1 CPU, 2 CPUs; never less than it is, to a thousandth."""
    thousandths = -(-cpu_nano * 1_000 // NS_PER_S)
    number = f"{thousandths / 1_000:g}"
    return f"{number} CPU" if number == "1" else f"{number} CPUs"


def amount(what: str, count: int) -> str:
    """An amount of cpu, memory or a generic resource."""
    if what == CPU:
        return cpus(count)
    return f"{size(count)} of memory" if what == MEMORY else f"{count} {what}"


def counted(count: int, one: str, many: str = "") -> str:
    """1 node, 2 nodes."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def name_of(node: Node) -> str:
    """What people call a node: its host's name, else its id."""
    return node.description.hostname or node.id


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _tenths(tenths: int) -> str:
    whole, rest = divmod(tenths, 10)
    return f"{whole}.{rest}" if rest and whole < 100 else str(whole + bool(rest))

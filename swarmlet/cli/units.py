"""Durations, sizes, CPUs and ratios as flag values: a wrong one is an error that names the flag."""

from collections.abc import Callable
from math import isnan
from typing import Final

import click

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import NS_PER_S
from swarmlet.model.duration import parse_duration
from swarmlet.model.size import parse_cpus, parse_size

Unit = Callable[[str | int], int]


def _unit(parse: Callable[[str], int]) -> Unit:
    def convert(value: str | int) -> int:
        if isinstance(value, int):  # a default, already read
            return value
        try:
            return parse(value)
        except InvalidArgumentError as error:
            message = f"{error.message.rstrip('.')}. {error.remedy}".strip()
            raise click.BadParameter(message) from None

    return convert


class _Ratio(click.FloatRange):
    """click's own takes nan for a number within its range."""

    def convert(
        self, value: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        ratio: float = super().convert(value, param, ctx)
        if isnan(ratio):
            self.fail("nan is not in the range 0<=x<=1.", param, ctx)
        return ratio


DURATION_NS: Final = _unit(parse_duration)
SIZE_B: Final = _unit(parse_size)
CPUS_NANO: Final = _unit(parse_cpus)
RATIO: Final = _Ratio(0, 1)


def seconds(duration_ns: int) -> float:
    return duration_ns / NS_PER_S

"""Durations, sizes and CPUs as flag values: a wrong one is a usage error that names the flag."""

from collections.abc import Callable
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


DURATION_NS: Final = _unit(parse_duration)
SIZE_B: Final = _unit(parse_size)
CPUS_NANO: Final = _unit(parse_cpus)


def seconds(duration_ns: int) -> float:
    return duration_ns / NS_PER_S

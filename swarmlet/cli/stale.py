"""What a listing shows while nobody leads: what this manager knows, and how old that is."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import click

from swarmlet.cli.client import Client
from swarmlet.cli.errors import ApiError
from swarmlet.cli.format import human_duration
from swarmlet.core.limits import MS_PER_S

P = ParamSpec("P")
T = TypeVar("T")


def may_be_stale(command: Callable[P, T]) -> Callable[P, T]:
    """For commands that only look: better old than nothing, and said on stderr."""

    @wraps(command)
    def looking(*args: P.args, **options: P.kwargs) -> T:
        client: Any = args[0]
        assert isinstance(client, Client), "stands below pass_obj"
        client.allow_stale(warn)
        return command(*args, **options)

    return looking


def warn(lost: ApiError, age_ms: int) -> None:
    """Say what is lost, and how old what is shown may be."""
    age = human_duration(age_ms / MS_PER_S).lower()
    click.echo(
        f"Warning: {lost.message}\n  What is shown is what this manager knew {age} ago.", err=True
    )
    if lost.remedy:
        click.echo(f"  Try: {lost.remedy}", err=True)

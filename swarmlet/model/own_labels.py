"""The labels of a service that swarmlet itself reads: all that begin as they do are known ones."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model import on_disconnect, rebalance, schedule, strategy

PREFIX: Final = "swarmlet."
KNOWN: Final = (on_disconnect.LABEL, rebalance.LABEL, strategy.LABEL, *schedule.LABELS)


def check_own_labels(labels: Mapping[str, str]) -> None:
    """Raises InvalidArgumentError for one that nobody reads: it would be a slip without a word."""
    for label in sorted(labels):
        if label.lower().startswith(PREFIX) and label not in KNOWN:
            near = get_close_matches(label.lower(), KNOWN, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise InvalidArgumentError(
                f"unknown label {label}{meant}",
                remedy=f"Labels of services that begin with {PREFIX} are {', '.join(KNOWN)}.",
            )

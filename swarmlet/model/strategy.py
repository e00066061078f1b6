"""How a service's tasks choose among the nodes that would do: a label of the service, so that
every client and every compose file can say it."""

from collections.abc import Mapping
from typing import Final

from swarmlet.core.errors import InvalidArgumentError

LABEL: Final = "swarmlet.strategy"
SPREAD: Final = "spread"
BINPACK: Final = "binpack"


def strategy_of(labels: Mapping[str, str]) -> str:
    """SPREAD (fewest tasks of the service, then fewest tasks; also where nothing is said) or
    BINPACK (the fullest node with room). Raises InvalidArgumentError."""
    text = labels.get(LABEL, "").strip()
    if text in ("", SPREAD):
        return SPREAD
    if text == BINPACK:
        return BINPACK
    raise InvalidArgumentError(
        f"{LABEL} is {text!r}, which is no strategy of placement.",
        remedy=f"Say {SPREAD} or {BINPACK}, as in `--label {LABEL}={BINPACK}`.",
    )

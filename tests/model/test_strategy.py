"""The label that says how a service's tasks choose among nodes."""

import pytest

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.strategy import BINPACK, LABEL, SPREAD, strategy_of


@pytest.mark.parametrize(
    ("labels", "strategy"),
    [
        ({}, SPREAD),
        ({LABEL: ""}, SPREAD),
        ({LABEL: "spread"}, SPREAD),
        ({LABEL: "binpack"}, BINPACK),
    ],
)
def test_strategy_is_said_by_a_label(labels, strategy):
    assert strategy_of(labels) == strategy


def test_strategy_that_is_none_is_refused():
    with pytest.raises(InvalidArgumentError, match="'random'") as caught:
        strategy_of({LABEL: "random"})
    assert "binpack" in caught.value.remedy

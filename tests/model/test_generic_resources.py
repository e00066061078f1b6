"""Generic resources: what is read from a daemon's options, what a task gets, how it is told."""

import pytest

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.generic_resources import claimed, names_of, parse_resources, variables
from swarmlet.model.service import (
    DiscreteGenericResource,
    GenericResource,
    NamedGenericResource,
)


def counted(kind, value):
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=value))


def named(kind, value):
    return GenericResource(named_resource_spec=NamedGenericResource(kind=kind, value=value))


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], []),
        (["ssd=3"], [counted("ssd", 3)]),
        (["gpu=GPU-1", "gpu=GPU-2"], [named("gpu", "GPU-1"), named("gpu", "GPU-2")]),
        (["gpu=a,gpu=b, ssd=1"], [named("gpu", "a"), named("gpu", "b"), counted("ssd", 1)]),
        (["gpu=a", "ssd=1", "gpu=b"], [named("gpu", "a"), named("gpu", "b"), counted("ssd", 1)]),
    ],
)
def test_resources_are_numbers_or_names(texts, found):
    assert parse_resources(texts) == found


@pytest.mark.parametrize(
    "texts",
    [
        ["gpu"],
        ["gpu="],
        ["=1"],
        ["gpu=0"],
        ["gpu=-1"],
        ["gpu=1", "gpu=2"],
        ["gpu=1", "gpu=a"],
        ["gpu=a", "gpu=a"],
        [f"gpu={2**63}"],
        ["gpu=a,,ssd=1"],
    ],
)
def test_resources_that_mean_nothing_are_refused(texts):
    with pytest.raises(InvalidArgumentError, match="generic resource") as caught:
        parse_resources(texts)
    assert "ssd=3" in caught.value.remedy


def test_task_gets_the_first_free_names_or_a_number():
    assert claimed("gpu", 2, ["b", "c", "d"]) == [named("gpu", "b"), named("gpu", "c")]
    assert claimed("ssd", 2, None) == [counted("ssd", 2)]


def test_names_are_listed_by_kind_and_told_in_variables():
    given = [named("gpu", "a"), named("gpu", "b"), counted("fast-ssd", 2)]
    assert names_of(given) == {"gpu": ["a", "b"]}
    assert variables(given) == ["DOCKER_RESOURCE_GPU=a,b", "DOCKER_RESOURCE_FAST-SSD=2"]

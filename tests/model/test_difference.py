"""How two specs differ, field by field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import replace

from swarmlet.model.container import ContainerSpec
from swarmlet.model.difference import FieldChange, changed_fields
from swarmlet.model.service import (
    EndpointSpec,
    ReplicatedMode,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)

BASE = ServiceSpec(
    name="web",
    task_template=TaskSpec(container_spec=ContainerSpec(image="a", env=["A=1", "B=2"])),
    mode=ServiceMode(replicated=ReplicatedMode(replicas=2)),
)


def with_container(**fields):
    container = replace(BASE.task_template.container_spec, **fields)
    return replace(BASE, task_template=replace(BASE.task_template, container_spec=container))


@pytest.mark.parametrize(
    ("new", "changes"),
    [
        (BASE, []),
        (with_container(image="b"), [("TaskTemplate.ContainerSpec.Image", "a", "b")]),
        (
            with_container(env=["A=1", "B=3"]),
            [("TaskTemplate.ContainerSpec.Env", ["A=1", "B=2"], ["A=1", "B=3"])],
        ),
        (
            replace(BASE, labels={"com.example.team": "shop", "tier": "1"}),
            [("Labels[com.example.team]", None, "shop"), ("Labels.tier", None, "1")],
        ),
        (
            replace(BASE, mode=ServiceMode(replicated=ReplicatedMode(replicas=5))),
            [("Mode.Replicated.Replicas", 2, 5)],
        ),
        (
            replace(BASE, update_config=UpdateConfig(parallelism=2)),
            [
                ("UpdateConfig.MaxFailureRatio", None, 0),
                ("UpdateConfig.Order", None, ""),
                ("UpdateConfig.Parallelism", None, 2),
            ],
        ),
        (
            replace(BASE, endpoint_spec=EndpointSpec(mode="vip")),
            [("EndpointSpec.Mode", None, "vip")],
        ),
        (replace(BASE, endpoint_spec=EndpointSpec()), [("EndpointSpec", None, {})]),
    ],
)
def test_each_field_that_differs_is_named_once(new, changes):
    assert [(c.path, c.old, c.new) for c in changed_fields(BASE, new)] == changes
    back = [FieldChange(path=path, old=after, new=before) for path, before, after in changes]
    assert list(changed_fields(new, BASE)) == back


TEXTS = st.text("ab.", min_size=1, max_size=3)
SPECS = st.builds(
    lambda labels, env, image, replicas: replace(
        with_container(env=env, image=image),
        labels=labels,
        mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
    ),
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    st.lists(TEXTS, max_size=3),
    TEXTS,
    st.integers(0, 3),
)


@given(SPECS, SPECS)
def test_specs_differ_where_and_only_where_a_change_says_so(old, new):
    changes = changed_fields(old, new)
    assert bool(changes) == (to_builtins(old) != to_builtins(new))
    assert len({change.path for change in changes}) == len(changes)
    assert all(change.old != change.new for change in changes)

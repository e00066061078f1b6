"""Templates are expanded in the fields SwarmKit expands, with what it knows there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.base import Driver
from swarmlet.model.container import ContainerSpec, Mount, VolumeOptions
from swarmlet.model.expand import TaskContext, check_templates, expand_task, has_templates
from swarmlet.model.service import PluginSpec, ServiceSpec, TaskSpec
from tests.model.strategies import specs

CONTEXT = TaskContext(
    service_id="svc1",
    service_name="web",
    service_labels={"team": "a", "dotted.key": "b"},
    node_id="node1",
    hostname="host1",
    os="linux",
    architecture="x86_64",
    task_id="task1",
    task_name="web.3.task1",
    slot="3",
)


def expanded(**fields: object) -> ContainerSpec:
    spec = TaskSpec(container_spec=ContainerSpec(image="a", **fields))
    container = expand_task(spec, CONTEXT).container_spec
    assert container is not None
    return container


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Service.ID}} {{.Service.Name}}", "svc1 web"),
        ("{{.Service.Labels.team}}", "a"),
        ('{{index .Service.Labels "dotted.key"}}', "b"),
        ('{{index .Service.Labels "nope"}}', ""),
        ("{{.Node.ID}} {{.Node.Hostname}}", "node1 host1"),
        ("{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}", "linux/x86_64"),
        ("{{.Task.ID}} {{.Task.Name}} {{.Task.Slot}}", "task1 web.3.task1 3"),
        ('{{if eq .Task.Slot "3"}}third{{else}}other{{end}}', "third"),
        ("{{range $k, $v := .Service.Labels}}{{$k}}={{$v}},{{end}}", "dotted.key=b,team=a,"),
        ('{{join "-" .Service.Name .Task.Slot}}', "web-3"),
        ("no template at all", "no template at all"),
        ("a=b={{.Task.Slot}}", "a=b=3"),
    ],
)
def test_value_says_what_the_context_says(template, text):
    assert expanded(env=[f"A={template}"]).env == [f"A={text}"]


def test_every_field_of_swarmkit_is_expanded_and_no_other():
    slot = "{{.Task.Slot}}"
    options = VolumeOptions(
        labels={slot: slot}, driver_config=Driver(name=slot, options={slot: slot})
    )
    container = expanded(
        env=[f"{slot}={slot}", slot],
        hostname=f"h{slot}",
        mounts=[Mount(type="volume", source=slot, target=f"/{slot}", volume_options=options)],
        command=[slot],
        args=[slot],
        labels={"a": slot},
        user=slot,
        dir=slot,
        groups=[slot],
    )
    assert container == ContainerSpec(
        image="a",
        env=[f"{slot}=3", slot],
        hostname="h3",
        mounts=[
            Mount(
                type="volume",
                source="3",
                target="/3",
                volume_options=VolumeOptions(
                    labels={slot: "3"}, driver_config=Driver(name=slot, options={slot: "3"})
                ),
            )
        ],
        command=[slot],
        args=[slot],
        labels={"a": slot},
        user=slot,
        dir=slot,
        groups=[slot],
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hostname": "{{.Service.Labels.nope}}"}, ["hostname", ".nope"]),
        ({"env": ["A={{.Container.ID}}"]}, ["env A", ".Container"]),
        ({"env": ["A={{.Task.Slot"]}, ["env A"]),
        ({"mounts": [Mount(type="bind", source="{{nope}}", target="/")]}, ["mount source", "nope"]),
        ({"mounts": [Mount(type="bind", source="/", target="{{.X}}")]}, ["mount target", ".X"]),
    ],
    ids=str,
)
def test_template_that_does_not_fit_is_refused_with_its_field(fields, words):
    with pytest.raises(InvalidArgumentError) as refused:
        expanded(**fields)
    for word in words:
        assert word in refused.value.message


def test_labels_of_the_service_are_known_when_its_templates_are_tried():
    task = TaskSpec(container_spec=ContainerSpec(env=["A={{.Service.Labels.team}}"]))
    check_templates(ServiceSpec(name="web", labels={"team": "a"}, task_template=task))
    with pytest.raises(InvalidArgumentError, match=r"expanding env A failed"):
        check_templates(ServiceSpec(name="web", task_template=task))


def test_plugin_has_nothing_to_expand():
    spec = TaskSpec(plugin_spec=PluginSpec(name="{{.X}}"))
    assert expand_task(spec, CONTEXT) is spec


@given(specs(ContainerSpec))
@settings(max_examples=100, deadline=None)
def test_spec_without_templates_is_left_as_it_is(container):
    spec = TaskSpec(container_spec=container)
    if not has_templates(container):
        assert expand_task(spec, CONTEXT) is spec


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_text_is_expanded_or_refused_and_never_anything_else(text):
    try:
        env = expanded(env=[f"A={text}"]).env
    except InvalidArgumentError as refused:
        assert "{{" in text
        assert "expanding env A failed" in refused.message  # noqa: PT017 - refused or expanded
    else:
        assert env[0].startswith("A=")
        assert "{{" in text or env == [f"A={text}"]

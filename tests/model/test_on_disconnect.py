"""What a service may say of its tasks on a node that cannot be reached."""

import pytest

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.base import Driver
from swarmlet.model.container import ContainerSpec, Mount, VolumeOptions
from swarmlet.model.on_disconnect import (
    KEEP,
    LABEL,
    NEVER_REPLACE,
    OnDisconnect,
    is_of_one_node,
    on_disconnect_of,
    said_by,
)
from swarmlet.model.service import ServiceSpec, TaskSpec
from swarmlet.model.validate_service import check_service


def spec(rule="", *mounts):
    container = ContainerSpec(image="host", mounts=list(mounts))
    template = TaskSpec(container_spec=container)
    return ServiceSpec(name="web", labels={LABEL: rule} if rule else {}, task_template=template)


def volume(source="data", **driver):
    options = VolumeOptions(driver_config=Driver(**driver)) if driver else None
    return Mount(type="volume", source=source, target="/data", volume_options=options)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", KEEP),
        ("  ", KEEP),
        ("keep", KEEP),
        ("never-replace", NEVER_REPLACE),
        ("stop-after 30s", OnDisconnect(stop_after_s=30)),
        ("stop-after  1m30s ", OnDisconnect(stop_after_s=90)),
        ("stop-after 1s", OnDisconnect(stop_after_s=1)),
    ],
)
def test_rule_is_read(rule, expected):
    assert said_by({LABEL: rule}) == expected
    check_service(spec(rule))


@pytest.mark.parametrize(
    "rule",
    [
        "stop-after",
        "stop-after 999ms",
        "stop-after soon",
        "stop-after -5s",
        "Keep",
        "keep 3s",
        "no",
    ],
)
def test_other_words_are_refused_with_a_sentence(rule):
    with pytest.raises(InvalidArgumentError, match="no way to act on a disconnect") as refused:
        check_service(spec(rule))
    assert "stop-after 30s" in refused.value.remedy
    with pytest.raises(InvalidArgumentError):
        on_disconnect_of(spec(rule, volume()))


NFS = {"name": "local", "options": {"type": "nfs", "o": "addr=10.0.0.1", "device": ":/x"}}


@pytest.mark.parametrize(
    ("mount", "is_local"),
    [
        (volume(), True),
        (volume(name="local"), True),
        (volume("data", name="", options={"o": "size=1g"}), True),
        (volume("data", name="local", options={"type": "ext4", "device": "/dev/sdb"}), True),
        (volume("data", **NFS), False),
        (volume("data", name="", options={"type": "CIFS"}), False),
        (volume("data", name="rexray"), False),
        (volume(""), False),
        (Mount(type="bind", source="/srv", target="/data"), False),
        (Mount(type="tmpfs", target="/data"), False),
    ],
)
def test_volume_of_one_node_keeps_its_tasks_there(mount, is_local):
    assert is_of_one_node(mount) == is_local
    assert on_disconnect_of(spec("", mount)) == (NEVER_REPLACE if is_local else KEEP)
    assert on_disconnect_of(spec("keep", mount)) == KEEP

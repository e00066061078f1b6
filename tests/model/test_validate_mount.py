"""Mounts: the Docker Engine's rules in its words."""

import json

import pytest

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.container import ContainerSpec
from swarmlet.model.parse import parse
from swarmlet.model.validate_mount import check_mounts

BIND = {"Type": "bind", "Source": "/a", "Target": "/x"}
VOLUME = {"Type": "volume", "Source": "data", "Target": "/x"}
TMPFS = {"Type": "tmpfs", "Target": "/x"}

GOOD = [
    [BIND, {**VOLUME, "Target": "/y"}, {**TMPFS, "Target": "/z"}],
    [{**BIND, "ReadOnly": True, "BindOptions": {"Propagation": "rslave"}}],
    [{"Type": "volume", "Target": "/x"}],
    [{**VOLUME, "ReadOnly": True, "VolumeOptions": {"Subpath": "a/b", "Labels": {"a": "b"}}}],
    [{**TMPFS, "TmpfsOptions": {"SizeBytes": 1024, "Mode": 0o1777}}],
    [{**BIND, "Source": "{{.Node.ID}}", "Target": "{{.Task.Slot}}"}],
    [{**VOLUME, "Source": "v-{{.Task.Slot}}"}],
]

BAD = [
    ([{"Type": "zzz"}], 'invalid MountType: "zzz"'),
    ([BIND, {**TMPFS}], "ContainerSpec: duplicate mount point: /x"),
    ([{**BIND, "BindOptions": {"Propagation": "zzz"}}], 'invalid MountBindPropagation: "zzz"'),
    (
        [{**VOLUME, "Source": "/data"}],
        "invalid volume mount source, must not be an absolute path: /data",
    ),
    ([{**TMPFS, "TmpfsOptions": {"SizeBytes": -1}}], "a tmpfs cannot have a negative size"),
    ([{**TMPFS, "TmpfsOptions": {"Mode": 0o10000}}], "a tmpfs cannot have the mode 10000"),
]

WRONG_CONFIG = [
    ({"Type": "volume"}, "field Target must not be empty"),
    ({**VOLUME, "Target": "x"}, "invalid mount path: 'x' mount path must be absolute"),
    ({**VOLUME, "Target": "//"}, "invalid specification: destination can't be '/'"),
    ({**VOLUME, "Target": "/a\0b"}, "a path must not contain a NUL character"),
    ({"Type": "bind", "Target": "/x"}, "field Source must not be empty"),
    ({**BIND, "Source": "a"}, "invalid mount path: 'a' mount path must be absolute"),
    ({**BIND, "VolumeOptions": {}}, "field VolumeOptions must not be specified"),
    ({**BIND, "TmpfsOptions": {}}, "field TmpfsOptions must not be specified"),
    ({**VOLUME, "BindOptions": {}}, "field BindOptions must not be specified"),
    ({**TMPFS, "VolumeOptions": {}}, "field VolumeOptions must not be specified"),
    ({**TMPFS, "Source": "a"}, "field Source must not be specified"),
    (
        {"Type": "volume", "Target": "/x", "ReadOnly": True},
        "must not set ReadOnly mode when using anonymous volumes",
    ),
    (
        {"Type": "volume", "Target": "/x", "VolumeOptions": {"Subpath": "a"}},
        "must not set Subpath when using anonymous volumes",
    ),
    (
        {**VOLUME, "VolumeOptions": {"Subpath": "a/../../b"}},
        "subpath must be a relative path within the volume",
    ),
]


def mounts(*bodies):
    return parse(ContainerSpec, json.dumps({"Image": "a", "Mounts": bodies}).encode()).mounts


@pytest.mark.parametrize("bodies", GOOD, ids=str)
def test_mounts_that_docker_takes_are_taken(bodies):
    check_mounts(mounts(*bodies))


@pytest.mark.parametrize(("bodies", "sentence"), BAD, ids=[s for _, s in BAD])
def test_wrong_mount_is_refused_with_a_sentence(bodies, sentence):
    with pytest.raises(InvalidArgumentError) as refused:
        check_mounts(mounts(*bodies))
    assert sentence in refused.value.message


@pytest.mark.parametrize(("body", "why"), WRONG_CONFIG, ids=[w for _, w in WRONG_CONFIG])
def test_mount_the_engine_would_refuse_is_refused_in_its_words(body, why):
    with pytest.raises(InvalidArgumentError) as refused:
        check_mounts(mounts(body))
    assert refused.value.message == f'invalid mount config for type "{body["Type"]}": {why}'

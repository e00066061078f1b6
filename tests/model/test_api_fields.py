"""Every field of the Docker API's description is kept from request to answer."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from swarmlet.model.cluster import SwarmSpec
from swarmlet.model.config import ConfigSpec
from swarmlet.model.network import NetworkSpec
from swarmlet.model.node import NodeSpec
from swarmlet.model.parse import parse
from swarmlet.model.secret import SecretSpec
from swarmlet.model.service import ServiceSpec
from swarmlet.model.volume import VolumeSpec

STRUCTS = {
    struct.__name__: struct
    for struct in (
        SwarmSpec,
        NodeSpec,
        ServiceSpec,
        SecretSpec,
        ConfigSpec,
        NetworkSpec,
        VolumeSpec,
    )
}
# Paths as in the description (version 1.56), [] for a list's element and {} for a map's value.
# Where it puts the parts of ClusterVolumeSpec below AccessMode, the real API's place is used.
FIELDS = json.loads((Path(__file__).parent / "api_fields.json").read_text())
CASES = [(name, path, kind) for name, fields in FIELDS.items() for path, kind in fields.items()]
SAMPLES = {
    "string": "x",
    "integer": 7,
    "number": 0.5,
    "boolean": True,
    "base64": "eA==",
    "empty": {},
}


def nested(path: str, value: object) -> object:
    """The JSON value in which `path` leads to `value`."""
    for step in reversed(re.findall(r"\[\]|\{\}|[^.\[{]+", path)):
        value = [value] if step == "[]" else {"key" if step == "{}" else step: value}
    return value


def holds(value: object, wanted: object) -> bool:
    """Whether all of `wanted` is in `value`; names are compared whatever their case."""
    if isinstance(wanted, dict) and isinstance(value, dict):
        lowered = {key.lower(): item for key, item in value.items()}
        return all(holds(lowered.get(key.lower()), item) for key, item in wanted.items())
    if isinstance(wanted, list) and isinstance(value, list):
        return len(value) == len(wanted) and all(map(holds, value, wanted))
    return type(value) is type(wanted) and value == wanted


@pytest.mark.parametrize(("name", "path", "kind"), CASES, ids=lambda case: str(case))
def test_api_field_survives_reading_and_writing(name, path, kind):
    word, _, chosen = kind.partition(":")
    wanted = nested(path, chosen or SAMPLES[word])
    spec = parse(STRUCTS[name], json.dumps(wanted).encode())
    assert spec != STRUCTS[name]()
    assert holds(json.loads(msgspec.json.encode(spec)), wanted)


def test_the_list_of_api_fields_is_the_whole_description():
    assert {name: len(fields) for name, fields in FIELDS.items()} == {
        "ServiceSpec": 139,
        "SwarmSpec": 20,
        "NodeSpec": 4,
        "SecretSpec": 7,
        "ConfigSpec": 5,
        "NetworkSpec": 18,
        "VolumeSpec": 16,
    }

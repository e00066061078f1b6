"""Reading requests: as Docker's server does, and with a sentence for all that is wrong."""

import json
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.base import ApiStruct
from swarmlet.model.cluster import SwarmSpec
from swarmlet.model.config import ConfigSpec
from swarmlet.model.network import NetworkSpec
from swarmlet.model.node import NodeSpec
from swarmlet.model.parse import parse
from swarmlet.model.secret import SecretSpec
from swarmlet.model.service import ServiceSpec
from swarmlet.model.volume import VolumeSpec
from tests.model.strategies import specs

STRUCTS = (ServiceSpec, SwarmSpec, NodeSpec, SecretSpec, ConfigSpec, NetworkSpec, VolumeSpec)


@given(st.one_of([specs(struct) for struct in STRUCTS]))
@settings(max_examples=300, deadline=None)
def test_any_spec_is_read_back_as_it_was_written(spec):
    assert parse(type(spec), msgspec.json.encode(spec)) == spec


def scrambled(value: object, change: object) -> object:
    """The same JSON with every name's case changed and nulls added where a field may be null."""
    if isinstance(value, dict):
        return {change(key): scrambled(item, change) for key, item in value.items()}
    return [scrambled(item, change) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase])
def test_field_names_match_whatever_their_case(change):
    body = {"TaskTemplate": {"ContainerSpec": {"Image": "host", "Tty": True}}, "Name": "web"}
    spec = parse(ServiceSpec, json.dumps(scrambled(body, change)).encode())
    assert spec.name == "web"
    assert spec.task_template.container_spec.image == "host"
    assert spec.task_template.container_spec.tty


def test_whole_number_is_a_number():
    config = parse(ServiceSpec, b'{"UpdateConfig": {"MaxFailureRatio": 1}}').update_config
    assert type(config.max_failure_ratio) is float


def test_labels_keep_the_case_of_their_names():
    assert parse(NodeSpec, b'{"LABELS": {"Zone": "a", "zone": "b"}}').labels == {
        "Zone": "a",
        "zone": "b",
    }


@pytest.mark.parametrize("raw", [b"", b"  \n", b"{}", b"null", b' {"Name": null, "Nope": [1]} '])
def test_body_that_says_nothing_is_the_zero_value(raw):
    assert parse(ServiceSpec, raw) == ServiceSpec()


def test_null_is_the_zero_value_of_its_place():
    spec = parse(
        ServiceSpec,
        b'{"Labels": {"a": null}, "TaskTemplate": {"ContainerSpec": {"Env": [null, "A=1"],'
        b' "Init": null, "Mounts": [null]}}}',
    )
    container = spec.task_template.container_spec
    assert spec.labels == {"a": ""}
    assert container.env == ["", "A=1"]
    assert container.init is None
    assert container.mounts[0].target == ""


def test_later_spelling_of_a_field_wins():
    assert parse(NodeSpec, b'{"Name": "a", "name": "b"}').name == "b"


def test_base64_may_be_broken_into_lines():
    assert parse(ConfigSpec, b'{"Data": "aGVs\\r\\nbG8="}').data == b"hello"


CONTAINER = "TaskTemplate.ContainerSpec"
WRONG = [
    (b"[]", "the request's body must be an object, not a list"),
    (b'"x"', "the request's body must be an object, not a string"),
    (b'{"Name": 5}', "Name must be a string, not a number"),
    (b'{"name": {}}', "Name must be a string, not an object"),
    (b'{"Labels": []}', "Labels must be an object of strings, not a list"),
    (b'{"Labels": {"a": 1}}', "Labels[a] must be a string, not a number"),
    (
        b'{"TaskTemplate": {"ContainerSpec": {"Env": 5}}}',
        f"{CONTAINER}.Env must be a list of strings, not a number",
    ),
    (
        b'{"TaskTemplate": {"ContainerSpec": {"Env": ["A=1", true]}}}',
        f"{CONTAINER}.Env[1] must be a string, not true or false",
    ),
    (
        b'{"TaskTemplate": {"ContainerSpec": {"Mounts": ["/x"]}}}',
        f"{CONTAINER}.Mounts[0] must be an object, not a string",
    ),
    (
        b'{"TaskTemplate": {"ContainerSpec": {"Mounts": [{}, {"ReadOnly": "yes"}]}}}',
        f"{CONTAINER}.Mounts[1].ReadOnly must be true or false, not a string",
    ),
    (
        b'{"TaskTemplate": {"ContainerSpec": {"Mounts": [{"TmpfsOptions": {"Options": [["a", 1]]}}'
        b"]}}}",
        f"{CONTAINER}.Mounts[0].TmpfsOptions.Options[0][1] must be a string, not a number",
    ),
    (
        b'{"Mode": {"Replicated": {"Replicas": "3"}}}',
        "Mode.Replicated.Replicas must be an integer, not a string",
    ),
    (
        b'{"Mode": {"Replicated": {"Replicas": 1.0}}}',
        "Mode.Replicated.Replicas must be an integer, not a number with a fraction",
    ),
    (
        b'{"Mode": {"Replicated": {"Replicas": true}}}',
        "Mode.Replicated.Replicas must be an integer, not true or false",
    ),
    (
        b'{"Mode": {"Replicated": {"Replicas": 9223372036854775808}}}',
        "Mode.Replicated.Replicas must be an integer, not one that needs more than 64 bits",
    ),
    (b'{"Mode": {"Global": 1}}', "Mode.Global must be an object, not a number"),
    (
        b'{"UpdateConfig": {"MaxFailureRatio": "half"}}',
        "UpdateConfig.MaxFailureRatio must be a number, not a string",
    ),
    (
        b'{"UpdateConfig": {"MaxFailureRatio": 99999999999999999999}}',
        "UpdateConfig.MaxFailureRatio must be a number, not one that needs more than 64 bits",
    ),
    (b"{", "invalid JSON: unexpected end of the input"),
    (b'{"Name": "a"} {}', "invalid JSON: trailing characters (byte 15)"),
    (b"{'Name': 1}", "invalid JSON: object keys must be strings (byte 1)"),
    (b'{"Name": "\xff"}', "invalid JSON: it is not UTF-8"),
    (b'{"Name": NaN}', "invalid JSON: invalid character (byte 9)"),
    (b'{"Name": ' + b"[" * 100_000, "invalid JSON: it is nested too deeply"),
]


@pytest.mark.parametrize(("raw", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_wrong_body_is_refused_with_its_place_and_what_was_expected(raw, sentence):
    with pytest.raises(InvalidArgumentError) as refused:
        parse(ServiceSpec, raw)
    assert refused.value.message == sentence
    assert refused.value.http_status == 400


@pytest.mark.parametrize("data", ["!!", "YQ", "YQ=", "Y Q==", "aé==", "YQ==YQ=="])
def test_bad_base64_is_refused_without_repeating_it(data):
    with pytest.raises(InvalidArgumentError) as refused:
        parse(SecretSpec, json.dumps({"Data": data}).encode())
    assert refused.value.message == "Data must be base64 text, not a string of another form"


def test_base64_that_is_no_string_is_refused():
    with pytest.raises(InvalidArgumentError) as refused:
        parse(SecretSpec, b'{"Data": [104, 105]}')
    assert refused.value.message == "Data must be base64 text, not a list"


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=300)
def test_no_body_raises_anything_but_a_refusal(raw):
    for struct in (ServiceSpec, ConfigSpec):
        try:
            spec = parse(struct, raw)
        except InvalidArgumentError:
            continue
        assert isinstance(spec, struct)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Name", "labels", "TaskTemplate", "ContainerSpec", "Env", "Mode", "Ports"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=300)
def test_any_json_is_read_or_refused(value):
    try:
        spec = parse(ServiceSpec, json.dumps(value).encode())
    except InvalidArgumentError:
        return
    assert parse(ServiceSpec, msgspec.json.encode(spec)) == spec


class Numbers(ApiStruct, frozen=True, kw_only=True):
    sizes: tuple[int, ...] = ()
    by_name: dict[str, list[int]] = {}


def test_bodies_of_routes_may_use_tuples_and_maps_of_lists():
    assert parse(Numbers, b'{"Sizes": [1, 2], "ByName": {"a": [3]}}') == Numbers(
        sizes=(1, 2), by_name={"a": [3]}
    )


def test_config_is_read_in_at_most_25_us():
    raw = b'{"Name":"abc","Labels":{"a":"b"},"Data":"' + b"YWJj" * 64 + b'","Templating":null}'
    parse(ConfigSpec, raw)

    def once_us() -> float:
        start = time.perf_counter()
        for _ in range(200):
            parse(ConfigSpec, raw)
        return (time.perf_counter() - start) / 200 * 1e6

    assert min(once_us() for _ in range(10)) <= 25

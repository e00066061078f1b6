"""A task as the body of the engine's POST /containers/create: field by field, and refusals."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.model.container import ContainerSpec
from swarmlet.model.parse import parse
from swarmlet.model.service import TaskSpec
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.docker.create import (
    ENGINE_LABEL,
    TASK_LABEL,
    container_name,
    create_body,
    image_name,
)
from swarmlet.runtime.docker.refusals import parse_version, refuse_options
from swarmlet.wire.messages import AssignedTask
from tests.model.strategies import specs

NEWEST = "1.52"
SYSTEM = {
    "com.docker.swarm.task": "",
    "com.docker.swarm.task.id": "task1",
    "com.docker.swarm.task.name": "web.1.task1",
    "com.docker.swarm.node.id": "node1",
    "com.docker.swarm.service.id": "svc1",
    "com.docker.swarm.service.name": "web",
    "swarmlet.engine": "engine1",
}


def task_of(template: TaskSpec, **fields: object) -> AssignedTask:
    return AssignedTask(
        id=TaskID("task1"),
        service_id=ServiceID("svc1"),
        service_name="web",
        service_labels={},
        slot=1,
        node_id=NodeID("node1"),
        desired=512,
        spec=template,
        task_name="web.1.task1",
        **fields,
    )


def task(container: dict | None = None, template: dict | None = None, **fields: object):
    body = {"ContainerSpec": {"Image": "busybox", **(container or {})}, **(template or {})}
    return task_of(parse(TaskSpec, json.dumps(body).encode()), **fields)


def body_of(*args: object, api_version: str = NEWEST, **fields: object) -> dict:
    return create_body(task(*args, **fields), engine_id="engine1", api_version=api_version)


def test_bare_task_says_nothing_the_engine_would_decide():
    assert body_of() == {
        "Image": "busybox:latest",
        "Labels": SYSTEM,
        "Tty": False,
        "OpenStdin": False,
        "HostConfig": {"AutoRemove": False, "RestartPolicy": {"Name": "no"}},
    }


CONFIG = [
    ({"Command": ["a", "b"], "Args": ["c"]}, {"Entrypoint": ["a", "b"], "Cmd": ["c"]}),
    ({"Args": ["c"]}, {"Cmd": ["c"]}),
    ({"Env": ["A=1", "B"]}, {"Env": ["A=1", "B"]}),
    ({"Hostname": "h", "Dir": "/d"}, {"Hostname": "h", "WorkingDir": "/d"}),
    ({"User": "1000:5"}, {"User": "1000:5"}),
    ({"TTY": True, "OpenStdin": True}, {"Tty": True, "OpenStdin": True}),
    ({"StopSignal": "SIGINT"}, {"StopSignal": "SIGINT"}),
    ({"StopGracePeriod": 0}, {"StopTimeout": 0}),
    ({"StopGracePeriod": 1_500_000_000}, {"StopTimeout": 2}),
    ({"Healthcheck": {"Test": ["NONE"]}}, {"Healthcheck": {"Test": ["NONE"]}}),
    (
        {
            "Healthcheck": {
                "Test": ["CMD", "true"],
                "Interval": 1_000_000,
                "Timeout": 2_000_000,
                "StartPeriod": 3_000_000,
                "StartInterval": 4_000_000,
                "Retries": 5,
            }
        },
        {
            "Healthcheck": {
                "Test": ["CMD", "true"],
                "Interval": 1_000_000,
                "Timeout": 2_000_000,
                "StartPeriod": 3_000_000,
                "StartInterval": 4_000_000,
                "Retries": 5,
            }
        },
    ),
    ({"Healthcheck": {"Retries": 5}}, {"Healthcheck": {"Retries": 5}}),
    (
        {"Labels": {"a": "b", "com.docker.swarm.task.id": "forged", "swarmlet.engine": "forged"}},
        {"Labels": {**SYSTEM, "a": "b"}},
    ),
]


@pytest.mark.parametrize(("container", "fields"), CONFIG, ids=str)
def test_field_of_the_container_lands_where_the_engine_reads_it(container, fields):
    body = body_of(container)
    assert {name: body[name] for name in fields} == fields


HOST = [
    ({"Groups": ["5", "audio"]}, {"GroupAdd": ["5", "audio"]}),
    ({"Init": True}, {"Init": True}),
    ({"Init": False}, {"Init": False}),
    ({"ReadOnly": True}, {"ReadonlyRootfs": True}),
    ({"Sysctls": {"a.b": "1"}}, {"Sysctls": {"a.b": "1"}}),
    (
        {"CapabilityAdd": ["CAP_A"], "CapabilityDrop": ["ALL"]},
        {"CapAdd": ["CAP_A"], "CapDrop": ["ALL"]},
    ),
    (
        {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}]},
        {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}]},
    ),
    ({"OomScoreAdj": -5}, {"OomScoreAdj": -5}),
    (
        {"Hosts": ["1.2.3.4 a b", "::1 c"]},
        {"ExtraHosts": ["a:1.2.3.4", "b:1.2.3.4", "c:::1"]},
    ),
    (
        {"DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["x"], "Options": ["ndots:1"]}},
        {"Dns": ["1.1.1.1"], "DnsSearch": ["x"], "DnsOptions": ["ndots:1"]},
    ),
    ({"DNSConfig": {}, "Isolation": "default"}, {}),
    ({"Privileges": {"NoNewPrivileges": True}}, {"SecurityOpt": ["no-new-privileges=true"]}),
    ({"Privileges": {"Seccomp": {"Mode": "default"}, "AppArmor": {"Mode": "default"}}}, {}),
    (
        {"Privileges": {"Seccomp": {"Mode": "unconfined"}, "AppArmor": {"Mode": "disabled"}}},
        {"SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"]},
    ),
    (
        {"Privileges": {"Seccomp": {"Mode": "custom", "Profile": "e30="}}},
        {"SecurityOpt": ["seccomp={}"]},
    ),
    (
        {"Privileges": {"SELinuxContext": {"User": "u", "Role": "r", "Type": "t", "Level": "l"}}},
        {"SecurityOpt": ["label=user:u", "label=role:r", "label=level:l", "label=type:t"]},
    ),
    ({"Privileges": {"SELinuxContext": {"Disable": True}}}, {"SecurityOpt": ["label=disable"]}),
    *(
        ({"Mounts": [mount]}, {"Mounts": [mount]})
        for mount in (
            {
                "Type": "bind",
                "Source": "/a",
                "Target": "/b",
                "ReadOnly": True,
                "BindOptions": {"Propagation": "rshared", "NonRecursive": True},
            },
            {
                "Type": "volume",
                "Source": "v",
                "Target": "/b",
                "VolumeOptions": {
                    "NoCopy": True,
                    "Labels": {"a": "b"},
                    "DriverConfig": {"Name": "local", "Options": {"type": "nfs"}},
                    "Subpath": "x",
                },
            },
            {"Type": "volume", "Target": "/b"},
            {
                "Type": "tmpfs",
                "Target": "/b",
                "TmpfsOptions": {"SizeBytes": 5, "Mode": 0o1777, "Options": [["noexec"]]},
            },
        )
    ),
]


@pytest.mark.parametrize(("container", "fields"), HOST, ids=str)
def test_field_of_the_host_lands_where_the_engine_reads_it(container, fields):
    host = body_of(container)["HostConfig"]
    plain = {"AutoRemove": False, "RestartPolicy": {"Name": "no"}}
    assert host == {**plain, **fields}


MEMORY = {"MemoryBytes": 100 << 20}
RESOURCES = [
    (
        {"Limits": {"NanoCPUs": 5_000_000, "Pids": 7, **MEMORY}},
        {"NanoCpus": 5_000_000, "PidsLimit": 7, "Memory": 100 << 20},
    ),
    ({"Limits": MEMORY, "SwapBytes": 0}, {"Memory": 100 << 20, "MemorySwap": 100 << 20}),
    ({"Limits": MEMORY, "SwapBytes": 5}, {"Memory": 100 << 20, "MemorySwap": (100 << 20) + 5}),
    ({"Limits": MEMORY, "SwapBytes": -1}, {"Memory": 100 << 20, "MemorySwap": -1}),
    ({"SwapBytes": -1}, {}),
    ({"MemorySwappiness": 0}, {"MemorySwappiness": 0}),
    ({"Reservations": {"NanoCPUs": 5_000_000, **MEMORY}}, {}),
]


@pytest.mark.parametrize(("resources", "fields"), RESOURCES, ids=str)
def test_limits_are_the_engines_and_reservations_the_schedulers(resources, fields):
    host = body_of({}, {"Resources": resources})["HostConfig"]
    assert {name: host[name] for name in host if name not in ("AutoRemove", "RestartPolicy")} == (
        fields
    )


def test_log_driver_and_its_options_are_passed_on():
    driver = {"Name": "local", "Options": {"max-size": "1m"}}
    host = body_of({}, {"LogDriver": driver})["HostConfig"]
    assert host["LogConfig"] == {"Type": "local", "Config": {"max-size": "1m"}}


def test_ports_in_host_mode_are_bound_and_zero_lets_the_engine_choose():
    ports = (("", "tcp", 80, 8080), ("", "tcp", 80, 8081), ("dns", "udp", 53, 0))
    body = body_of(ports=ports)
    assert body["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert body["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostPort": "8080"}, {"HostPort": "8081"}],
        "53/udp": [{"HostPort": ""}],
    }


def test_network_of_the_node_is_joined_by_name():
    assert body_of(network_mode="host")["HostConfig"]["NetworkMode"] == "host"


def test_container_is_named_as_its_task():
    assert container_name(task()) == "web.1.task1"


@pytest.mark.parametrize(
    ("image", "asked"),
    [
        ("busybox", "busybox:latest"),
        ("busybox:1", "busybox:1"),
        ("reg:5000/a/b", "reg:5000/a/b:latest"),
        ("a@sha256:" + "0" * 64, "a@sha256:" + "0" * 64),
        ("a:1@sha256:" + "0" * 64, "a:1@sha256:" + "0" * 64),
    ],
)
def test_image_is_asked_for_with_a_tag_or_a_digest(image, asked):
    assert image_name(image) == asked


REFUSED = [
    ({"Image": "host"}, {}, "node's own files"),
    ({"Image": "host:latest"}, {}, "node's own files"),
    ({"Privileges": {"CredentialSpec": {"File": "x"}}}, {}, "credential spec"),
    ({"Isolation": "hyperv"}, {}, "isolation"),
    ({"Mounts": [{"Type": "npipe", "Target": "/x"}]}, {}, "mount of type npipe"),
    ({"Mounts": [{"Type": "cluster", "Target": "/x"}]}, {}, "mount of type cluster"),
    ({"Mounts": [{"Type": "image", "Target": "/x"}]}, {}, "mount of type image"),
    (
        {"Mounts": [{"Type": "volume", "Target": "/x", "ImageOptions": {}}]},
        {},
        "options of an image",
    ),
    ({"Hosts": ["1.2.3.4"]}, {}, "no name beside its address"),
    ({"Privileges": {"Seccomp": {"Mode": "custom"}}}, {}, "seccomp profile"),
    ({"Privileges": {"Seccomp": {"Mode": "custom", "Profile": "/w=="}}}, {}, "seccomp profile"),
    ({}, {"Resources": {"SwapBytes": 5}}, "swap without a limit of its memory"),
    ({}, {"PluginSpec": {"Name": "p"}}, "plugin"),
    ({}, {"NetworkAttachmentSpec": {"ContainerID": "c"}}, "attachment"),
    ({}, {"Runtime": "plugin"}, "no ContainerSpec"),
]


@pytest.mark.parametrize(("container", "template", "words"), REFUSED, ids=str)
def test_what_no_container_gives_is_refused_in_words(container, template, words):
    one = task(container, template)
    with pytest.raises(RuntimeProblemError, match=words) as refused:
        refuse_options(one)
    assert refused.value.remedy
    with pytest.raises(RuntimeProblemError, match=words):
        create_body(one, engine_id="e", api_version=NEWEST)


BIND = {"Type": "bind", "Source": "/a", "Target": "/b"}
YOUNG = [
    ({"Healthcheck": {"StartInterval": 1_000_000}}, "1.44", "Healthcheck.StartInterval"),
    (
        {"Mounts": [{**BIND, "BindOptions": {"CreateMountpoint": True}}]},
        "1.42",
        "BindOptions.CreateMountpoint",
    ),
    (
        {"Mounts": [{**BIND, "BindOptions": {"ReadOnlyNonRecursive": True}}]},
        "1.44",
        "BindOptions.ReadOnlyNonRecursive",
    ),
    (
        {"Mounts": [{**BIND, "BindOptions": {"ReadOnlyForceRecursive": True}}]},
        "1.44",
        "BindOptions.ReadOnlyForceRecursive",
    ),
    (
        {"Mounts": [{"Type": "volume", "Target": "/b", "VolumeOptions": {"Subpath": "x"}}]},
        "1.45",
        "VolumeOptions.Subpath",
    ),
    (
        {"Mounts": [{"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"Options": [["noexec"]]}}]},
        "1.46",
        "TmpfsOptions.Options",
    ),
]


@pytest.mark.parametrize(("container", "since", "field"), YOUNG, ids=[f for _, _, f in YOUNG])
def test_field_younger_than_the_engine_is_refused_not_dropped(container, since, field):
    major, minor = since.split(".")
    with pytest.raises(RuntimeProblemError) as refused:
        body_of(container, api_version=f"{major}.{int(minor) - 1}")
    assert refused.value.message.startswith(f"{field} needs a Docker Engine of API {since}")
    assert body_of(container, api_version=since)


@pytest.mark.parametrize("text", ["", "v1", "1.x", "1.41-beta"])
def test_version_that_is_none_is_a_problem_of_the_runtime(text):
    with pytest.raises(RuntimeProblemError, match="API version"):
        parse_version(text)


def test_versions_are_compared_as_numbers():
    assert parse_version("1.9") < parse_version("1.41") < parse_version("2.0")


@given(specs(TaskSpec), specs(ContainerSpec), st.sampled_from(["1.40", "1.41", "1.44", NEWEST]))
@settings(max_examples=200, deadline=None)
def test_any_task_becomes_a_body_or_a_refusal(template, container, api_version):
    container = msgspec.structs.replace(container, image="busybox:1")
    one = task_of(msgspec.structs.replace(template, container_spec=container))
    try:
        body = create_body(one, engine_id="engine1", api_version=api_version)
    except RuntimeProblemError as refused:
        assert refused.message  # noqa: PT017 - refused or made, and nothing else
        return
    assert json.loads(json.dumps(body)) == body
    assert body["Labels"] == {**container.labels, **SYSTEM}
    assert body["Labels"][TASK_LABEL] == "task1"
    assert body["Labels"][ENGINE_LABEL] == "engine1"
    assert body["HostConfig"]["RestartPolicy"] == {"Name": "no"}


def test_image_that_is_no_reference_is_refused():
    with pytest.raises(RuntimeProblemError, match="invalid image reference"):
        body_of({"Image": "UPPER"})

"""Bad service specs: one sentence each, in Docker's words where Docker has some."""

import json

import msgspec
import pytest
from hypothesis import given, settings

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.container import ContainerSpec
from swarmlet.model.defaults import normal_service
from swarmlet.model.parse import parse
from swarmlet.model.service import ServiceSpec, TaskSpec
from swarmlet.model.validate_service import check_service
from tests.model.strategies import specs

GIB = 1024**3


def service(**parts: object) -> ServiceSpec:
    """A spec as a client sends it: `container`, `task`, and parts of the service itself."""
    container = {"Image": "host", **parts.pop("container", {})}
    task = {"ContainerSpec": container, **parts.pop("task", {})}
    body = {"Name": "web", "TaskTemplate": task, **parts}
    return parse(ServiceSpec, json.dumps(body).encode())


def port(**given: object) -> dict[str, object]:
    return {"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishMode": "host", **given}]}}


GOOD = [
    {},
    {"Name": "a"},
    {"Name": "a--_b-C9"},
    {"Name": "x" * 63},
    {"Mode": {"Replicated": {"Replicas": 0}}},
    {"Mode": {"Replicated": {"Replicas": 2**31}}},
    {"Mode": {"Global": {}}},
    {"Labels": {"a.b/c d": ""}},
    {"UpdateConfig": {"Parallelism": 0, "FailureAction": "rollback", "Order": "start-first"}},
    {"UpdateConfig": {"MaxFailureRatio": 1}},
    {"RollbackConfig": {"FailureAction": "continue", "MaxFailureRatio": 0.5}},
    port(PublishedPort=65535, Protocol="sctp"),
    {"EndpointSpec": {"Mode": "dnsrr", "Ports": [{"TargetPort": 80, "PublishMode": "host"}]}},
    {"EndpointSpec": {"Ports": [{"TargetPort": 1}, {"TargetPort": 1}]}},
    {
        "EndpointSpec": {
            "Ports": [
                {"TargetPort": 53, "PublishedPort": 53, "Protocol": "udp"},
                {"TargetPort": 53, "PublishedPort": 53, "Protocol": "tcp"},
            ]
        }
    },
    {"container": {"Image": "reg:5000/a/b@sha256:" + "0" * 64}},
    {"container": {"Env": ["A=1", "B", "C="], "Dir": "/srv", "StopSignal": "SIGRTMIN+3"}},
    {"container": {"StopSignal": "usr1", "StopGracePeriod": 0, "OomScoreAdj": -1000}},
    {"container": {"StopSignal": "9", "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": -1}]}},
    {"container": {"Healthcheck": {"Test": ["NONE"], "Interval": 1_000_000}}},
    {"task": {"Resources": {"Limits": {"NanoCPUs": 1_000_000, "MemoryBytes": 4 * 1024**2}}}},
    {"task": {"Resources": {"SwapBytes": -1, "MemorySwappiness": -1}}},
    {"task": {"RestartPolicy": {"Condition": "on-failure", "Delay": 0, "MaxAttempts": 0}}},
    {"task": {"Placement": {"Constraints": ["node.role==manager", "node.labels.zone != eu"]}}},
    {"task": {"Placement": {"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.a"}}]}}},
    {"task": {"ContainerSpec": None, "Runtime": "plugin", "PluginSpec": {"Name": "p"}}},
    {
        "task": {
            "Resources": {
                "Reservations": {
                    "GenericResources": [
                        {"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}},
                        {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 2}},
                    ]
                }
            }
        }
    },
    {"container": {"Configs": [{"ConfigID": "i", "ConfigName": "c", "Runtime": {}}]}},
    {"task": {"LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}}}},
]


@pytest.mark.parametrize("parts", GOOD, ids=str)
def test_good_service_is_accepted(parts):
    check_service(service(**parts))


SECRET = {"SecretID": "i", "SecretName": "s", "File": {"Name": "t"}}
CONFIG = {"ConfigID": "i", "ConfigName": "c", "File": {"Name": "t"}}
BAD = [
    ({"Name": ""}, "name must be provided"),
    ({"Name": "x" * 64}, "name must be 63 characters or fewer"),
    *(
        ({"Name": name}, "name must be valid as a DNS name component")
        for name in ("bad name!", "a.b", "-a", "a-", "a_", "ä", "a\n")
    ),
    ({"Labels": {"": "x"}}, "Labels: a label needs a name before its value"),
    ({"Mode": {"Replicated": {"Replicas": -1}}}, "Replicas must not be negative, but is -1"),
    (
        {"Mode": {"Replicated": {"Replicas": 2**31 + 1}}},
        "Replicas must be at most 2147483648, not 2147483649",
    ),
    (
        {"Mode": {"ReplicatedJob": {"MaxConcurrent": -2}}},
        "MaxConcurrent must not be negative, but is -2",
    ),
    (
        {"Mode": {"ReplicatedJob": {"TotalCompletions": 2**40}}},
        "TotalCompletions must be at most 2147483648, not 1099511627776",
    ),
    ({"Mode": {"Replicated": {}, "Global": {}}}, "must specify only one service mode"),
    ({"task": {"Runtime": "zzz"}}, 'unrecognized runtime: "zzz"'),
    ({"task": {"Runtime": "plugin"}}, "mismatched Runtime and *Spec fields"),
    ({"task": {"ContainerSpec": None}}, "mismatched Runtime and *Spec fields"),
    ({"task": {"PluginSpec": {}}}, "mismatched Runtime and *Spec fields"),
    (
        {"UpdateConfig": {"FailureAction": "zzz"}},
        "unrecognized update failure action zzz",
    ),
    (
        {"RollbackConfig": {"FailureAction": "rollback"}},
        "unrecognized rollback failure action rollback",
    ),
    ({"UpdateConfig": {"Order": "zzz"}}, "unrecognized update order zzz"),
    (
        {"UpdateConfig": {"Parallelism": -1}},
        "UpdateConfig.Parallelism must not be negative, but is -1",
    ),
    ({"UpdateConfig": {"Delay": -1}}, "UpdateConfig.Delay must not be negative, but is -1"),
    ({"RollbackConfig": {"Monitor": -5}}, "RollbackConfig.Monitor must not be negative, but is -5"),
    (
        {"UpdateConfig": {"MaxFailureRatio": 1.01}},
        "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
    ),
    (
        {"RollbackConfig": {"MaxFailureRatio": -0.1}},
        "TaskSpec: rollback-maxfailureratio cannot be less than 0 or bigger than 1",
    ),
    # ports
    ({"EndpointSpec": {"Mode": "zzz"}}, 'invalid endpoint mode: "zzz"'),
    (port(Protocol="TCP"), 'invalid protocol of a published port: "TCP"'),
    (port(PublishMode="bridge"), 'invalid publish mode: "bridge"'),
    (port(TargetPort=0), "invalid target port 0: it must be 1 to 65535"),
    (port(TargetPort=65536), "invalid target port 65536: it must be 1 to 65535"),
    (
        port(PublishedPort=-1),
        "invalid published port -1: it must be 1 to 65535, or 0 for any free one",
    ),
    (
        port(PublishedPort=70000),
        "invalid published port 70000: it must be 1 to 65535, or 0 for any free one",
    ),
    (
        {"EndpointSpec": {"Mode": "dnsrr", "Ports": [{"TargetPort": 80, "PublishedPort": 8000}]}},
        "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
    ),
    (
        {
            "EndpointSpec": {
                "Ports": [
                    {"TargetPort": 1, "PublishedPort": 8000, "PublishMode": "host"},
                    {"TargetPort": 2, "PublishedPort": 8000, "Protocol": "tcp"},
                ]
            }
        },
        "EndpointSpec: duplicate published ports provided",
    ),
    # containers
    ({"container": {"Image": ""}}, "ContainerSpec: image reference must be provided"),
    (
        {"container": {"Image": "Bad"}},
        "invalid image reference 'Bad': repository name must be lowercase",
    ),
    (
        {"container": {"Labels": {"": ""}}},
        "ContainerSpec.Labels: a label needs a name before its value",
    ),
    ({"container": {"Env": ["=x"]}}, "ContainerSpec.Env: an entry has no name before its '='"),
    ({"container": {"Env": [""]}}, "ContainerSpec.Env: an entry has no name before its '='"),
    (
        {"container": {"Env": ["A=\0"]}},
        "ContainerSpec: Env must not contain a NUL character",
    ),
    (
        {"container": {"Command": ["a\0b"]}},
        "ContainerSpec: Command must not contain a NUL character",
    ),
    ({"container": {"Args": ["\0"]}}, "ContainerSpec: Args must not contain a NUL character"),
    (
        {"container": {"User": "a\0"}},
        "ContainerSpec: Dir, User or Hostname must not contain a NUL character",
    ),
    ({"container": {"Groups": ["\0"]}}, "ContainerSpec: Groups must not contain a NUL character"),
    (
        {"container": {"Dir": "srv"}},
        "the working directory 'srv' is invalid, it needs to be an absolute path",
    ),
    *(
        ({"container": {"StopSignal": name}}, f"invalid stop signal: {name!r}")
        for name in ("SIGFOO", "0", "65", "-9", "9 ", "SIG", "9" * 5000, "٣")
    ),
    (
        {"container": {"StopGracePeriod": -1}},
        "StopGracePeriod must not be negative, but is -1",
    ),
    (
        {"container": {"Healthcheck": {"Timeout": 999_999}}},
        "ContainerSpec: Timeout in HealthConfig cannot be less than one millisecond",
    ),
    (
        {"container": {"Healthcheck": {"Retries": -1}}},
        "ContainerSpec: Retries in HealthConfig cannot be negative",
    ),
    (
        {"container": {"Healthcheck": {"Test": ["curl", "localhost"]}}},
        'ContainerSpec: unknown type "curl" of the Test in HealthConfig',
    ),
    *(
        (
            {"container": {"Healthcheck": {"Test": test}}},
            f"ContainerSpec: {test[0]} in HealthConfig needs a command",
        )
        for test in (["CMD"], ["CMD-SHELL", ""])
    ),
    (
        {"container": {"Healthcheck": {"Test": ["CMD", "a\0b"]}}},
        "ContainerSpec: Healthcheck must not contain a NUL character",
    ),
    (
        {"container": {"Privileges": {"Seccomp": {"Mode": "loose"}}}},
        'invalid seccomp mode: "loose"',
    ),
    (
        {"container": {"Privileges": {"AppArmor": {"Mode": "loose"}}}},
        'invalid AppArmor mode: "loose"',
    ),
    ({"container": {"Isolation": "vm"}}, 'invalid isolation: "vm"'),
    (
        {"container": {"OomScoreAdj": 1001}},
        "invalid OomScoreAdj 1001: it must be -1000 to 1000",
    ),
    ({"container": {"Ulimits": [{"Name": "zzz"}]}}, "invalid ulimit type: 'zzz'"),
    (
        {"container": {"Ulimits": [{"Name": "core"}, {"Name": "core"}]}},
        "the ulimit core is given twice",
    ),
    (
        {"container": {"Ulimits": [{"Name": "core", "Soft": -2}]}},
        "the ulimit core must not be negative (-1 is unlimited)",
    ),
    (
        {"container": {"Ulimits": [{"Name": "core", "Soft": -1, "Hard": 5}]}},
        "ulimit soft limit must be less than or equal to hard limit: core -1 > 5",
    ),
    (
        {"container": {"Secrets": [{"SecretName": "s"}]}},
        "malformed secret reference: ID and name must be given",
    ),
    (
        {"container": {"Secrets": [{**SECRET, "File": None}]}},
        "malformed reference to secret s: no target provided",
    ),
    (
        {"container": {"Secrets": [SECRET, SECRET]}},
        "secret s is not the only one with the target t: targets must be unique",
    ),
    (
        {"container": {"Configs": [{"ConfigID": "i"}]}},
        "malformed config reference: ID and name must be given",
    ),
    (
        {"container": {"Configs": [CONFIG, CONFIG]}},
        "config c is not the only one with the target t: targets must be unique",
    ),
    # resources, restart, placement
    (
        {"task": {"Resources": {"Limits": {"MemoryBytes": 1}}}},
        "invalid memory value 1: Must be at least 4MiB",
    ),
    (
        {"task": {"Resources": {"Reservations": {"MemoryBytes": -GIB}}}},
        "invalid memory value -1073741824: Must be at least 4MiB",
    ),
    (
        {"task": {"Resources": {"Limits": {"NanoCPUs": 999_999}}}},
        "invalid cpu value 0.000999999: Must be at least 0.001",
    ),
    (
        {"task": {"Resources": {"Limits": {"Pids": -1}}}},
        "Limits.Pids must not be negative, but is -1",
    ),
    ({"task": {"Resources": {"SwapBytes": -2}}}, "invalid swap value -2: -1 is unlimited"),
    (
        {"task": {"Resources": {"MemorySwappiness": 101}}},
        "invalid memory swappiness 101: it must be 0 to 100, or -1 for the default",
    ),
    (
        {
            "task": {
                "Resources": {"Reservations": {"GenericResources": [{"NamedResourceSpec": {}}]}}
            }
        },
        "invalid generic resource: a task reserves a number, not a named resource",
    ),
    (
        {
            "task": {
                "Resources": {
                    "Reservations": {
                        "GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu"}}]
                    }
                }
            }
        },
        "invalid generic resource: Kind and a Value of at least 1 are needed",
    ),
    ({"task": {"RestartPolicy": {"Condition": "zzz"}}}, 'invalid RestartCondition: "zzz"'),
    (
        {"task": {"RestartPolicy": {"Delay": -1}}},
        "RestartPolicy.Delay must not be negative, but is -1",
    ),
    (
        {"task": {"RestartPolicy": {"Window": -1}}},
        "RestartPolicy.Window must not be negative, but is -1",
    ),
    (
        {"task": {"RestartPolicy": {"MaxAttempts": -1}}},
        "RestartPolicy.MaxAttempts must not be negative, but is -1",
    ),
    (
        {"task": {"Placement": {"MaxReplicas": -1}}},
        "Placement.MaxReplicas must not be negative, but is -1",
    ),
    (
        {"task": {"Placement": {"Preferences": [{}]}}},
        "Placement.Preferences: Spread.SpreadDescriptor must be given",
    ),
    ({"task": {"LogDriver": {"Options": {"a": "b"}}}}, "LogDriver: driver must have a name"),
    ({"task": {"ForceUpdate": -1}}, "ForceUpdate must not be negative, but is -1"),
    ({"task": {"Networks": [{"Aliases": ["a"]}]}}, "Networks: a network's Target must be given"),
]


@pytest.mark.parametrize(("parts", "sentence"), BAD, ids=[f"{s[:60]}" for _, s in BAD])
def test_bad_service_is_refused_with_a_sentence(parts, sentence):
    with pytest.raises(InvalidArgumentError) as refused:
        check_service(service(**parts))
    assert refused.value.message == sentence


@pytest.mark.parametrize("text", ["node.role", "node.role=manager", "node.foo==x", "==x", "a==b"])
def test_bad_constraint_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="constraint"):
        check_service(service(task={"Placement": {"Constraints": [text]}}))


@pytest.mark.parametrize("parts", GOOD, ids=str)
def test_stored_form_of_a_good_service_is_good(parts):
    check_service(normal_service(service(**parts)))


@given(specs(TaskSpec), specs(ServiceSpec))
@settings(max_examples=300, deadline=None)
def test_no_spec_raises_anything_but_a_refusal(task, spec):
    container = msgspec.structs.replace(task.container_spec or ContainerSpec(), image="host")
    task = msgspec.structs.replace(task, container_spec=container, runtime="")
    try:
        check_service(msgspec.structs.replace(spec, task_template=task, name="web"))
    except InvalidArgumentError as refused:
        assert refused.message  # noqa: PT017 - most are refused, none without a sentence


def placed(constraints=(), preferences=()):
    descriptors = [{"Spread": {"SpreadDescriptor": text}} for text in preferences]
    return {"Constraints": list(constraints), "Preferences": descriptors}


@pytest.mark.parametrize(
    ("labels", "placement", "sentence"),
    [
        ({}, placed(["service==web"]), "cannot wait for itself"),
        ({}, placed(["SERVICE == WEB"]), "cannot wait for itself"),
        ({}, placed((), ["service=web"]), "expected one operator"),
        ({}, placed((), ["service=="]), "is invalid"),
        ({"swarmlet.strategy": "random"}, placed(), "no strategy"),
        (
            {"swarmlet.rebalanc": "on-join"},
            placed(),
            "unknown label swarmlet.rebalanc; did you mean swarmlet.rebalance",
        ),
        ({"swarmlet.schedule.time-zone": "UTC"}, placed(), "did you mean swarmlet.schedule.timez"),
        ({"Swarmlet.Strategy": "spread"}, placed(), "did you mean swarmlet.strategy"),
        ({"swarmlet.x": "y"}, placed(), "unknown label swarmlet.x"),
    ],
)
def test_placement_that_means_nothing_is_refused(labels, placement, sentence):
    with pytest.raises(InvalidArgumentError, match=sentence):
        check_service(service(Labels=labels, task={"Placement": placement}))


def test_placement_beside_other_services_is_accepted():
    placement = placed(["service!=web", "service==db"], ["service==cache", "node.labels.zone"])
    labels = {"swarmlet.strategy": "binpack"}
    check_service(service(Labels=labels, task={"Placement": placement}))

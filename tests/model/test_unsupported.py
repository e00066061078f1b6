"""What is not built yet is refused with 501 and a way around, and nothing else is."""

import json

import pytest

from swarmlet.core.errors import UnsupportedError
from swarmlet.model.base import Driver
from swarmlet.model.cluster import CAConfig, ExternalCA, SwarmSpec
from swarmlet.model.defaults import normal_service
from swarmlet.model.parse import parse
from swarmlet.model.secret import SecretSpec
from swarmlet.model.service import ServiceSpec
from swarmlet.model.unsupported import refuse_secret, refuse_service, refuse_swarm


def service(**parts: object) -> ServiceSpec:
    container = {"Image": "host", **parts.pop("container", {})}
    body = {"Name": "web", "TaskTemplate": {"ContainerSpec": container}, **parts}
    return normal_service(parse(ServiceSpec, json.dumps(body).encode()))


REFUSED = [
    ({"EndpointSpec": {"Ports": [{"TargetPort": 80}]}}, "ingress"),
    ({"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishMode": "ingress"}]}}, "ingress"),
    *(
        ({"container": {"Mounts": [{"Type": kind, "Source": "a", "Target": "/b"}]}}, f"type {kind}")
        for kind in ("npipe", "cluster", "image")
    ),
    (
        {"container": {"Privileges": {"CredentialSpec": {"Config": "a"}}}},
        "credential specs from configs",
    ),
]

ACCEPTED = [
    {},
    {"Mode": {"ReplicatedJob": {}}},
    {"Mode": {"GlobalJob": {}}},
    {"Mode": {"Global": {}}},
    {"container": {"Image": "busybox:1"}},
    {"container": {"Healthcheck": {"Test": ["NONE"]}}},
    {"container": {"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1_000_000_000}}},
    {"container": {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b"}]}},
    {"container": {"Env": ["A={{.Task.Slot}}"], "Hostname": "h-{{.Node.ID}}"}},
    {"container": {"Command": ["{{x}}"], "Labels": {"a": "{{b}}"}, "Env": ["A=${B}", "C"]}},
    {"container": {"Secrets": [{"SecretID": "a", "SecretName": "b", "File": {"Name": "b"}}]}},
    {"container": {"Configs": [{"ConfigID": "a", "ConfigName": "b", "File": {"Name": "b"}}]}},
    {"EndpointSpec": {"Mode": "vip"}},
    {"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishMode": "host"}]}},
    {"Mode": {"Replicated": {"Replicas": 5}}},
    {"UpdateConfig": {"Parallelism": 2}, "RollbackConfig": {"Parallelism": 2}},
]


@pytest.mark.parametrize(("parts", "words"), REFUSED, ids=[str(p)[:70] for p, _ in REFUSED])
def test_service_that_cannot_be_run_yet_is_refused_with_a_remedy(parts, words):
    with pytest.raises(UnsupportedError, match=words) as refused:
        refuse_service(service(**parts))
    assert refused.value.http_status == 501
    assert refused.value.remedy


@pytest.mark.parametrize("parts", ACCEPTED, ids=str)
def test_service_that_can_be_run_is_not_refused(parts):
    refuse_service(service(**parts))


def test_plugin_services_are_refused():
    spec = parse(
        ServiceSpec, b'{"TaskTemplate": {"Runtime": "plugin", "PluginSpec": {"Name": "p"}}}'
    )
    with pytest.raises(UnsupportedError, match="plugin"):
        refuse_service(spec)


def test_secret_drivers_are_refused():
    refuse_secret(SecretSpec(name="a", data=b"x"))
    with pytest.raises(UnsupportedError, match="secret drivers"):
        refuse_secret(SecretSpec(name="a", driver=Driver(name="vault")))


@pytest.mark.parametrize(
    "config", [CAConfig(signing_ca_cert="pem"), CAConfig(signing_ca_key="pem")], ids=["cert", "key"]
)
def test_root_of_ones_own_is_refused_at_init_alone(config):
    spec = SwarmSpec(ca_config=config)
    refuse_swarm(spec, SwarmSpec())
    with pytest.raises(UnsupportedError, match="its own root") as refused:
        refuse_swarm(spec)
    assert "ca --rotate" in refused.value.remedy


def test_settings_of_the_authority_are_not_refused():
    external = ExternalCA(protocol="cfssl", url="https://x")
    for old in (None, SwarmSpec()):
        refuse_swarm(SwarmSpec(ca_config=CAConfig(external_cas=[external], force_rotate=1)), old)

"""What a spec means where it says nothing."""

import json

import msgspec
import pytest
from hypothesis import given, settings

from swarmlet.model.cluster import RaftConfig, SwarmSpec
from swarmlet.model.container import ContainerSpec, HealthConfig
from swarmlet.model.defaults import complete_swarm, monitor_ns, normal_service, with_defaults
from swarmlet.model.parse import parse
from swarmlet.model.service import (
    EndpointSpec,
    NetworkAttachmentConfig,
    PortConfig,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from tests.model.strategies import specs

S = 10**9


def encoded(value: object) -> object:
    return json.loads(msgspec.json.encode(value))


def test_stored_form_is_what_docker_shows_without_defaults():
    sent = parse(
        ServiceSpec,
        b'{"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"},'
        b' "RestartPolicy": {"Delay": 2}}, "Mode": {"Replicated": {}},'
        b' "UpdateConfig": {"Delay": 5}, "EndpointSpec": {"Ports": [{"TargetPort": 80}]}}',
    )
    assert encoded(normal_service(sent)) == {
        "Name": "web",
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox", "Isolation": "default"},
            "RestartPolicy": {"Condition": "any", "Delay": 2, "MaxAttempts": 0},
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "UpdateConfig": {
            "Parallelism": 0,
            "Delay": 5,
            "FailureAction": "pause",
            "MaxFailureRatio": 0,
            "Order": "stop-first",
        },
        "EndpointSpec": {
            "Mode": "vip",
            "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress"}],
        },
    }


def test_defaults_are_what_docker_shows_when_asked_for_them():
    sent = ServiceSpec(
        name="web", task_template=TaskSpec(container_spec=ContainerSpec(image="busybox"))
    )
    update = {
        "Parallelism": 1,
        "FailureAction": "pause",
        "Monitor": 30 * S,
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    }
    assert encoded(with_defaults(sent)) == {
        "Name": "web",
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busybox",
                "StopGracePeriod": 10 * S,
                "DNSConfig": {},
                "Isolation": "default",
            },
            "Resources": {},
            "RestartPolicy": {"Condition": "any", "Delay": 5 * S, "MaxAttempts": 0},
            "Placement": {},
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "UpdateConfig": update,
        "RollbackConfig": update,
    }


def test_what_the_user_said_is_kept_among_the_defaults():
    sent = ServiceSpec(
        task_template=TaskSpec(
            container_spec=ContainerSpec(image="a", stop_grace_period=0),
            restart_policy=RestartPolicy(condition="none", delay=0),
        ),
        update_config=UpdateConfig(parallelism=0, monitor=7, failure_action="continue"),
    )
    full = with_defaults(sent)
    assert full.task_template.container_spec.stop_grace_period == 0
    assert full.task_template.restart_policy.condition == "none"
    assert full.task_template.restart_policy.delay == 0
    assert full.update_config.parallelism == 0
    assert full.update_config.monitor == 7
    assert full.update_config.failure_action == "continue"


@given(specs(ServiceSpec))
@settings(max_examples=200, deadline=None)
def test_what_was_read_may_be_sent_back_and_changes_nothing(spec):
    normal = normal_service(spec)
    assert normal_service(normal) == normal
    assert with_defaults(normal) == with_defaults(spec)
    assert parse(ServiceSpec, msgspec.json.encode(normal)) == normal


def test_networks_of_the_service_become_the_tasks_unless_it_has_its_own():
    old, new = NetworkAttachmentConfig(target="old"), NetworkAttachmentConfig(target="new")
    assert normal_service(ServiceSpec(networks=[old])).task_template.networks == [old]
    both = ServiceSpec(networks=[old], task_template=TaskSpec(networks=[new]))
    assert normal_service(both).task_template.networks == [new]
    assert normal_service(both).networks == []


def test_given_modes_and_ports_stay():
    sent = parse(ServiceSpec, b'{"Mode": {"Global": {}}}')
    assert normal_service(sent).mode == sent.mode
    port = PortConfig(protocol="udp", target_port=1, publish_mode="host")
    spec = ServiceSpec(endpoint_spec=EndpointSpec(mode="dnsrr", ports=[port]))
    assert normal_service(spec) == normal_service(normal_service(spec))
    assert normal_service(spec).endpoint_spec == spec.endpoint_spec


@pytest.mark.parametrize(
    ("health", "expected_s"),
    [
        (None, 30),
        (HealthConfig(), 30),
        (HealthConfig(test=["NONE"], interval=3_600 * S), 30),
        (HealthConfig(test=["CMD", "true"], interval=S, timeout=S, retries=1), 30),
        (HealthConfig(test=["CMD", "true"]), 180),
        (HealthConfig(test=["CMD", "x"], interval=10 * S, timeout=5 * S, start_period=60 * S), 105),
    ],
)
def test_monitor_is_long_enough_for_a_health_check_to_fail(health, expected_s):
    container = ContainerSpec(image="a", healthcheck=health)
    spec = ServiceSpec(task_template=TaskSpec(container_spec=container))
    assert monitor_ns(spec) == expected_s * S


def test_swarm_spec_gets_dockers_defaults():
    assert encoded(complete_swarm(SwarmSpec())) == {
        "Name": "default",
        "Labels": {},
        "Orchestration": {"TaskHistoryRetentionLimit": 5},
        "Raft": {
            "SnapshotInterval": 10_000,
            "KeepOldSnapshots": 0,
            "LogEntriesForSlowFollowers": 500,
            "ElectionTick": 10,
            "HeartbeatTick": 1,
        },
        "Dispatcher": {"HeartbeatPeriod": 5 * S},
        "CAConfig": {"NodeCertExpiry": 7_776_000 * S},
        "TaskDefaults": {},
        "EncryptionConfig": {"AutoLockManagers": False},
    }


def test_given_parts_of_a_swarm_spec_stay():
    body = (
        b'{"Orchestration": {"TaskHistoryRetentionLimit": 0}, "Raft": {"ElectionTick": 20},'
        b' "CAConfig": {"NodeCertExpiry": 1, "ForceRotate": 2}}'
    )
    whole = complete_swarm(parse(SwarmSpec, body))
    assert whole.orchestration.task_history_retention_limit == 0
    assert whole.raft == RaftConfig(
        snapshot_interval=10_000,
        keep_old_snapshots=0,
        log_entries_for_slow_followers=500,
        election_tick=20,
        heartbeat_tick=1,
    )
    assert whole.ca_config.node_cert_expiry == 1
    assert whole.ca_config.force_rotate == 2
    assert complete_swarm(whole) == whole

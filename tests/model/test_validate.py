"""What may be stored of secrets, configs, networks, nodes and the swarm."""

import pytest

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.base import Driver
from swarmlet.model.cluster import CAConfig, DispatcherConfig, RaftConfig, SwarmSpec, TaskDefaults
from swarmlet.model.config import ConfigSpec
from swarmlet.model.defaults import complete_swarm
from swarmlet.model.network import NetworkSpec
from swarmlet.model.node import NodeSpec
from swarmlet.model.secret import SecretSpec
from swarmlet.model.validate import (
    check_config,
    check_network,
    check_node,
    check_secret,
    check_swarm,
)

HOUR_NS = 3_600 * 10**9
BAD_NAME = (
    "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, "
    "and the start and end character must be [a-zA-Z0-9]"
)
SECRET_SIZE = "secret data must be larger than 0 and less than 512000 bytes"
CONFIG_SIZE = "config data must be larger than 0 and less than 1024000 bytes"


@pytest.mark.parametrize("name", ["a", "a.b-c_d", "0", "x" * 64, "A..b"])
def test_good_names_of_secrets_and_configs(name):
    check_secret(SecretSpec(name=name, data=b"x"))
    check_config(ConfigSpec(name=name, data=b"x"))


@pytest.mark.parametrize("name", ["-a", "a.", "_", "a b", "x" * 65, "a/b", "ä", "a\n"])
def test_bad_names_of_secrets_and_configs(name):
    for check, spec in (
        (check_secret, SecretSpec(name=name, data=b"x")),
        (check_config, ConfigSpec(name=name, data=b"x")),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            check(spec)
        assert refused.value.message == BAD_NAME


def test_payloads_up_to_their_limits_are_accepted():
    check_secret(SecretSpec(name="a", data=b"x" * 511_999))
    check_config(ConfigSpec(name="a", data=b"x" * 1_023_999))
    check_secret(SecretSpec(name="a", driver=Driver(name="vault")))
    check_config(ConfigSpec(name="a", data=b"x", templating=Driver(name="golang")))


BAD = [
    (check_secret, SecretSpec(data=b"x"), "name must be provided"),
    (check_secret, SecretSpec(name="a"), SECRET_SIZE),
    (check_secret, SecretSpec(name="a", data=b"x" * 512_000), SECRET_SIZE),
    (check_secret, SecretSpec(name="a", driver=Driver()), "Driver: driver must have a name"),
    (
        check_secret,
        SecretSpec(name="a", data=b"x", templating=Driver(name="jinja")),
        "unrecognized template type: jinja",
    ),
    (
        check_secret,
        SecretSpec(name="a", data=b"x", labels={"": "v"}),
        "Labels: a label needs a name before its value",
    ),
    (check_config, ConfigSpec(name="a"), CONFIG_SIZE),
    (check_config, ConfigSpec(name="a", data=b"x" * 1_024_000), CONFIG_SIZE),
    (check_network, NetworkSpec(name=" "), "name must be provided"),
    (
        check_network,
        NetworkSpec(name="i", ingress=True, attachable=True),
        "the ingress network cannot be attachable",
    ),
    (
        check_network,
        NetworkSpec(name="i", ingress=True, driver="bridge"),
        "the ingress network needs the overlay driver",
    ),
    (check_node, NodeSpec(availability="active"), 'invalid Role: ""'),
    (check_node, NodeSpec(role="boss", availability="active"), 'invalid Role: "boss"'),
    (check_node, NodeSpec(role="worker"), 'invalid Availability: ""'),
    (check_node, NodeSpec(role="worker", availability="zzz"), 'invalid Availability: "zzz"'),
    (check_swarm, SwarmSpec(name="foo"), 'swarm spec must be named "default"'),
    (
        check_swarm,
        SwarmSpec(ca_config=CAConfig(node_cert_expiry=HOUR_NS - 1)),
        "minimum certificate expiry time is: 1h0m0s",
    ),
    (
        check_swarm,
        SwarmSpec(ca_config=CAConfig(node_cert_expiry=-HOUR_NS)),
        "minimum certificate expiry time is: 1h0m0s",
    ),
    (
        check_swarm,
        SwarmSpec(dispatcher=DispatcherConfig(heartbeat_period=-1)),
        "heartbeat time period cannot be a negative duration",
    ),
    (
        check_swarm,
        SwarmSpec(raft=RaftConfig(election_tick=3, heartbeat_tick=3)),
        "ElectionTick (3) must be greater than HeartbeatTick (3)",
    ),
    (
        check_swarm,
        SwarmSpec(raft=RaftConfig(snapshot_interval=-1)),
        "SnapshotInterval must not be negative, but is -1",
    ),
    (
        check_swarm,
        SwarmSpec(raft=RaftConfig(election_tick=-5)),
        "ElectionTick must not be negative, but is -5",
    ),
    (
        check_swarm,
        SwarmSpec(task_defaults=TaskDefaults(log_driver=Driver())),
        "TaskDefaults.LogDriver: driver must have a name",
    ),
]


@pytest.mark.parametrize(("check", "spec", "sentence"), BAD, ids=[f"{s[:60]}" for *_, s in BAD])
def test_bad_spec_is_refused_with_a_sentence(check, spec, sentence):
    whole = complete_swarm(spec) if isinstance(spec, SwarmSpec) else spec
    with pytest.raises(InvalidArgumentError) as refused:
        check(whole)
    assert refused.value.message == sentence


def test_refusal_of_a_secret_never_shows_its_data():
    with pytest.raises(InvalidArgumentError) as refused:
        check_secret(SecretSpec(name="-", data=b"hunter2"))
    assert "hunter2" not in refused.value.message + refused.value.remedy


def test_completed_swarm_spec_is_accepted():
    check_swarm(complete_swarm(SwarmSpec()))
    check_swarm(complete_swarm(SwarmSpec(name="default", labels={"a": "b"})))

"""Rendering compared with what a Docker Engine answered, byte for byte but for ids and times."""

import base64
import json
import re
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.api.render.cluster import render_cluster, render_unlock_key, tls_info
from swarmlet.api.render.common import ZERO_TIME, rfc3339, rfc3339_fixed
from swarmlet.api.render.group import render_group
from swarmlet.api.render.network import render_network
from swarmlet.api.render.node import Managers, render_node
from swarmlet.api.render.payload import render_config, render_secret
from swarmlet.api.render.service import render_service
from swarmlet.api.render.spec import SHOWN_SPECS_MAX, ShownSpec, ShownSpecs, spec_json
from swarmlet.api.render.task import render_task
from swarmlet.ca.root import issuer_facts, new_root
from swarmlet.ca.unlock_key import unlock_keys_with
from swarmlet.core.managers import manager_warnings
from swarmlet.manager.control import ServiceStatus
from swarmlet.model.cluster import (
    Cluster,
    EncryptionConfig,
    JoinTokens,
    RootCA,
    RootRotation,
    SwarmSpec,
)
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.defaults import with_defaults
from swarmlet.model.network import IPAM, IPAMPool, Network, NetworkSpec
from swarmlet.model.node import (
    ManagerStatus,
    Node,
    NodeDescription,
    NodeSpec,
    NodeState,
    NodeStatus,
)
from swarmlet.model.parse import parse
from swarmlet.model.secret import Secret, SecretSpec
from swarmlet.model.service import (
    Endpoint,
    JobStatus,
    PortConfig,
    ServiceSpec,
    UpdateStatus,
    VirtualIP,
)
from swarmlet.model.task import STATE_NAMES, NetworkAttachment, Task, TaskStatus
from swarmlet.store.proposer import GroupHealth, Member, MemberHealth
from tests.api.world import service_rows

AT_MS = 1_767_323_045_678
STATES = {name: state for state, name in STATE_NAMES.items()}


def golden(name):
    return json.loads(Path(__file__).parent.joinpath("golden", f"{name}.json").read_text())


def number(text):
    """A whole number is one number, with or without a point behind it."""
    return int(float(text)) if float(text).is_integer() else float(text)


def printed(value):
    raw = msgspec.json.encode(value, order="deterministic")
    return json.dumps(json.loads(raw, parse_float=number), indent=1)


def same(value, expected):
    """Equal as text: the order of fields and what is left out count."""
    assert printed(value) == json.dumps(expected, indent=1)


def stamps(shown):
    return {"version": shown["Version"]["Index"], "created_ms": AT_MS, "updated_ms": AT_MS}


def spec_of_json(spec):
    return parse(ServiceSpec, json.dumps(spec).encode())


# Services ----------------------------------------------------------------------------------------
def endpoint_of(shown):
    if list(shown["Endpoint"]) == ["Spec"]:
        return None
    return Endpoint(
        ports=tuple(msgspec.convert(shown["Endpoint"]["Ports"], list[PortConfig])),
        virtual_ips=tuple(
            VirtualIP(network_id=ip["NetworkID"], addr=ip["Addr"])
            for ip in shown["Endpoint"]["VirtualIPs"]
        ),
    )


def with_networks_as_ids(sent, shown):
    """What the verbs do before a spec is stored."""
    if "Networks" in sent["TaskTemplate"]:
        sent["TaskTemplate"]["Networks"] = shown["Spec"]["TaskTemplate"]["Networks"]
    return sent


def service_of(case):
    shown = case["shown"]
    spec = spec_of_json(with_networks_as_ids(case["sent"], shown))
    service, row = service_rows(spec, shown["ID"])
    update, job = shown.get("UpdateStatus"), shown.get("JobStatus")
    service = replace(
        service,
        endpoint=endpoint_of(shown),
        update_status=UpdateStatus(
            state=update["State"], started_ms=AT_MS, completed_ms=AT_MS, message=update["Message"]
        )
        if update
        else None,
        job_status=JobStatus(last_execution_ms=AT_MS) if job else None,
        **stamps(shown),
    )
    return service, row


def status_of(shown):
    status = shown.get("ServiceStatus")
    if status is None:
        return None
    return ServiceStatus(
        running=status["RunningTasks"],
        desired=status["DesiredTasks"],
        completed=status["CompletedTasks"],
    )


@pytest.mark.parametrize("case", golden("services"), ids=lambda case: case["name"])
def test_service_is_printed_as_docker_prints_it(case):
    shown = case["shown"]
    service, row = service_of(case)
    previous = None
    if "PreviousSpec" in shown:
        previous = ShownSpec(service_rows(spec_of_json(shown["PreviousSpec"]))[1])
    same(render_service(service, ShownSpec(row), previous, status=status_of(shown)), shown)


def test_defaults_are_printed_as_docker_prints_them_but_for_the_longer_monitor():
    case = golden("service-defaults")
    service, row = service_of(case)
    spec = spec_json(with_defaults(row.spec))
    for part in ("UpdateConfig", "RollbackConfig"):
        assert case["shown"]["Spec"][part].pop("Monitor") == 5_000_000_000
    found = json.loads(
        msgspec.json.encode(render_service(service, ShownSpec(row), None, spec_json=spec))
    )
    for part in ("UpdateConfig", "RollbackConfig"):
        assert found["Spec"][part].pop("Monitor") == 30_000_000_000
    assert found == case["shown"]


def test_rendered_specs_are_kept_while_there_is_room_and_never_stale():
    specs = ShownSpecs()
    _, row = service_rows(ServiceSpec(name="a"))
    assert specs.of(row) is specs.of(row)
    _, other = service_rows(ServiceSpec(name="b"))
    assert other.id == row.id
    assert b'"b"' in bytes(specs.of(other).service)
    for number in range(SHOWN_SPECS_MAX + 5):
        specs.of(replace(row, id=str(number)))
    assert len(specs._kept) == SHOWN_SPECS_MAX


# Tasks -------------------------------------------------------------------------------------------
def network_of_attachment(shown):
    spec, index = shown["Spec"], shown["Version"]["Index"]
    asked = spec.get("IPAMOptions")
    ipam = None
    if asked is not None:
        pools = msgspec.convert(asked.get("Configs", []), list[IPAMPool])
        ipam = IPAM(driver=asked["Driver"].get("Name", ""), config=pools)
    own = spec["DriverConfiguration"].get("Options", {})
    return Network(
        id=shown["ID"],
        spec=NetworkSpec(
            name=spec["Name"],
            labels=spec["Labels"],
            driver=spec["DriverConfiguration"].get("Name", ""),
            options=own,
            attachable=spec.get("Attachable", False),
            ingress=spec.get("Ingress", False),
            ipam=ipam,
        ),
        pools=tuple(msgspec.convert(shown["IPAMOptions"]["Configs"], list[IPAMPool])),
        driver_options={
            key: value for key, value in shown["DriverState"]["Options"].items() if key not in own
        },
        version=index,
        created_ms=AT_MS,
        updated_ms=AT_MS,
    )


def task_of(shown):
    status, ran = shown["Status"], shown["Status"].get("ContainerStatus", {})
    return Task(
        id=shown["ID"],
        service_id=shown["ServiceID"],
        slot=shown.get("Slot", 0),
        node_id=shown.get("NodeID", ""),
        desired=STATES[shown["DesiredState"]],
        status=TaskStatus(
            state=STATES[status["State"]],
            at_ms=AT_MS,
            message=status["Message"],
            err=status.get("Err", ""),
            container_id=ran.get("ContainerID", ""),
            pid=ran.get("PID", 0),
            exit_code=ran.get("ExitCode", 0),
        ),
        networks=tuple(
            NetworkAttachment(
                network_id=attached["Network"]["ID"], addresses=tuple(attached["Addresses"])
            )
            for attached in shown.get("NetworksAttachments", [])
        ),
        **stamps(shown),
    )


@pytest.mark.parametrize("shown", golden("tasks"), ids=lambda shown: shown["Status"]["State"])
def test_task_is_printed_as_docker_prints_it(shown):
    mode = {"ReplicatedJob": {}} if "JobIteration" in shown else {"Replicated": {}}
    spec = {"Name": "x", "TaskTemplate": shown["Spec"], "Mode": mode}
    _, row = service_rows(spec_of_json(spec), shown["ServiceID"])
    networks = {
        attached["Network"]["ID"]: network_of_attachment(attached["Network"])
        for attached in shown.get("NetworksAttachments", [])
    }
    same(render_task(task_of(shown), ShownSpec(row), networks, now_ms=0), shown)


def test_task_prints_the_host_ports_it_was_given():
    _, row = service_rows(ServiceSpec(name="x"))
    port = PortConfig(protocol="tcp", target_port=80, published_port=30_000, publish_mode="host")
    task = replace(
        task_of(golden("tasks")[0]), status=TaskStatus(state=512, at_ms=AT_MS, ports=(port,))
    )
    found = json.loads(msgspec.json.encode(render_task(task, ShownSpec(row), {}, now_ms=0)))
    assert found["Status"]["PortStatus"]["Ports"][0]["PublishedPort"] == 30_000


# Nodes, swarm, networks, payloads ----------------------------------------------------------------
def node_of(shown):
    manager = shown.get("ManagerStatus")
    return Node(
        id=shown["ID"],
        spec=msgspec.convert(shown["Spec"], NodeSpec),
        description=msgspec.json.decode(json.dumps(shown["Description"]), type=NodeDescription),
        status=NodeStatus(
            state=NodeState[shown["Status"]["State"].upper()],
            message=shown["Status"].get("Message", ""),
            addr=shown["Status"]["Addr"],
        ),
        manager=ManagerStatus(raft_id=1 if manager.get("Leader") else 2, addr=manager["Addr"])
        if manager
        else None,
        **stamps(shown),
    )


@pytest.mark.parametrize("shown", golden("nodes"), ids=lambda shown: shown["Status"]["State"])
def test_node_is_printed_as_docker_prints_it(shown):
    manager = shown.get("ManagerStatus")
    node = node_of(shown)
    members = ()
    if manager:
        member = Member(raft_id=1, node_id=node.id, address=manager["Addr"])
        members = (MemberHealth(member=member, answers=manager["Reachability"] == "reachable"),)
    leader = 1 if manager and manager.get("Leader") else 2
    same(render_node(node, Managers(group(*members, leader=leader))), shown)


def group(*members, leader=1):
    return GroupHealth(leader=leader, members=members, quorum=len(members) // 2 + 1)


@pytest.mark.parametrize(
    ("is_voter", "is_known", "answers", "reach"),
    [
        (True, True, True, "reachable"),
        (True, True, False, "unreachable"),
        (True, False, True, "unknown"),
        (False, True, True, "unknown"),
    ],
)
def test_manager_is_reachable_as_the_group_hears_it(is_voter, is_known, answers, reach):
    member = Member(raft_id=3, node_id="n", address="10.0.0.3:2377", is_voter=is_voter)
    health = MemberHealth(member=member, is_known=is_known, answers=answers)
    status = Managers(group(health)).status(Node(id="n", spec=NodeSpec(), role="manager"))
    assert status.reachability == reach
    assert (status.leader, status.addr) == (False, "10.0.0.3:2377")


def test_manager_outside_of_the_group_is_of_unknown_reach_and_a_worker_of_none():
    managers = Managers(group())
    node = Node(id="n", spec=NodeSpec(), role="manager")
    assert managers.status(node).reachability == "unknown"
    assert managers.status(replace(node, role="worker")) is None


def test_group_is_printed_with_who_is_silent_and_what_is_lost():
    voter = Member(raft_id=2**62, node_id="a", address="10.0.0.1:2377")
    silent = MemberHealth(
        member=replace(voter, raft_id=7, node_id="b"),
        answers=False,
        silent_since_ms=AT_MS,
        hostname="db-2",
    )
    health = replace(
        group(MemberHealth(member=voter, answers=True), silent, leader=None), lost_since_ms=AT_MS
    )
    shown = json.loads(msgspec.json.encode(render_group(health, 4, 99)))
    assert (shown["Term"], shown["Applied"], shown["Quorum"], shown["Answering"]) == (4, 99, 2, 1)
    assert shown["LostSince"] == shown["Members"][1]["SilentSince"] == rfc3339(AT_MS)
    assert shown["AsOf"] is None
    assert [one["RaftID"] for one in shown["Members"]] == [str(2**62), "7"]
    assert [one["Hostname"] for one in shown["Members"]] == ["", "db-2"]
    assert [one["Reachability"] for one in shown["Members"]] == ["reachable", "unreachable"]
    assert not any(one["IsLeader"] for one in shown["Members"])


@pytest.mark.parametrize(("number", "is_given"), [(0, True), (1, False)])
def test_swarm_is_printed_as_docker_prints_it(number, is_given):
    shown = golden("swarm")[number]
    cluster = Cluster(
        id=shown["ID"],
        spec=msgspec.convert(shown["Spec"], SwarmSpec),
        root_ca=RootCA(
            cert_pem=shown["TLSInfo"]["TrustRoot"].encode(),
            tokens=msgspec.convert(shown["JoinTokens"], JoinTokens),
        ),
        addr_pool_given=is_given,
        subnet_size=24,
        **stamps(shown),
    )
    same(render_cluster(cluster, with_tokens=True), shown)
    signing = replace(cluster.spec.ca_config, signing_ca_cert="C", signing_ca_key="K")
    cluster = replace(cluster, spec=replace(cluster.spec, ca_config=signing))
    assert "SigningCA" not in printed(render_cluster(cluster, with_tokens=False))


def test_swarm_in_rotation_names_the_new_signer_and_the_old_root():
    old, new = (new_root(1_700_000_000_000, Random(seed).randbytes) for seed in (1, 2))
    rotation = RootRotation(cert_pem=new.cert_pem, key_pem=new.key_pem, cross_signed_pem=b"x")
    resting = RootCA(cert_pem=old.cert_pem, key_pem=old.key_pem)
    cluster = Cluster(id="c", spec=SwarmSpec(), root_ca=replace(resting, rotation=rotation))
    shown = render_cluster(cluster, with_tokens=True)
    assert shown.root_rotation_in_progress
    assert shown.tls_info.trust_root == old.cert_pem.decode()
    facts = (shown.tls_info.cert_issuer_subject, shown.tls_info.cert_issuer_public_key)
    assert facts == issuer_facts(new.cert_pem)
    assert "PRIVATE" not in printed(shown)
    before = render_cluster(replace(cluster, root_ca=resting), with_tokens=False)
    assert not before.root_rotation_in_progress
    assert before.tls_info.cert_issuer_public_key == issuer_facts(old.cert_pem)[1]


def test_unlock_key_has_its_human_form_or_is_empty():
    cluster = Cluster(id="c", spec=SwarmSpec())
    assert render_unlock_key(cluster) == ""
    key = base64.b64decode("M1RYIeu46RoiSQzPQLSkDIc+0gqYGrk9rJbCVTsC+7M=")
    locks = SwarmSpec(encryption_config=EncryptionConfig(auto_lock_managers=True))
    cluster = replace(cluster, spec=locks, unlock_keys=unlock_keys_with(key))
    assert render_unlock_key(cluster) == "SWMKEY-1-M1RYIeu46RoiSQzPQLSkDIc+0gqYGrk9rJbCVTsC+7M"
    assert tls_info(b"").trust_root == ""


def network_of(shown):
    given = {
        key: value for key, value in shown["Options"].items() if not key.endswith("vxlanid_list")
    }
    return Network(
        id=shown["Id"],
        spec=NetworkSpec(
            name=shown["Name"],
            driver="overlay",
            attachable=shown["Attachable"],
            ingress=shown["Ingress"],
            labels=shown["Labels"] or {},
            options=given,
        ),
        pools=tuple(msgspec.convert(shown["IPAM"]["Config"], list[IPAMPool])),
        driver_options={k: v for k, v in shown["Options"].items() if k not in given},
        created_ms=AT_MS,
    )


@pytest.mark.parametrize("kind", ["listed", "inspected"])
def test_network_is_printed_as_docker_prints_it(kind):
    for shown in golden("networks")[kind]:
        same(render_network(network_of(shown), is_whole=kind == "inspected"), shown)


def test_payloads_are_printed_as_docker_prints_them():
    shown = golden("payloads")
    secret = msgspec.convert(shown["secret"]["Spec"], SecretSpec)
    secret = replace(secret, data=b"hidden")
    config = msgspec.json.decode(json.dumps(shown["config"]["Spec"]), type=ConfigSpec)
    same(render_secret(Secret(id=shown["secret"]["ID"], spec=secret, **stamps(shown["secret"]))),
         shown["secret"])  # fmt: skip
    same(render_config(Config(id=shown["config"]["ID"], spec=config, **stamps(shown["config"]))),
         shown["config"])  # fmt: skip


# Times and warnings ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, ZERO_TIME),
        (1, "1970-01-01T00:00:00.001Z"),
        (1_000, "1970-01-01T00:00:01Z"),
        (1_767_323_045_600, "2026-01-02T03:04:05.6Z"),
        (1_767_323_045_678, "2026-01-02T03:04:05.678Z"),
    ],
)
def test_times_are_trimmed_as_go_trims_them(at_ms, text):
    assert rfc3339(at_ms) == text


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_fixed_times_sort_like_the_moments_and_have_nine_digits(at_ns):
    text = rfc3339_fixed(at_ns)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", text)
    assert rfc3339_fixed(at_ns + 1) > text


@pytest.mark.parametrize(
    ("managers", "word"),
    [(0, ""), (1, ""), (2, "2-manager"), (3, ""), (4, "even"), (9, "more than 7")],
)
def test_unwise_numbers_of_managers_are_warned_of(managers, word):
    warnings = manager_warnings(managers)
    assert bool(warnings) == bool(word)
    assert all(word in warning for warning in warnings)

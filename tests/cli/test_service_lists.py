"""`service update` adds to lists and takes from them, as docker does."""

import copy
import os
import shlex

import pytest

from tests.cli import recorded

CONTAINER = {
    "Mounts": [
        {"Type": "bind", "Source": "/a", "Target": "/x"},
        {"Type": "volume", "Source": "v", "Target": "/y"},
    ],
    "Groups": ["5"],
    "Hosts": ["1.2.3.4 a", "1.2.3.5 a", "1.2.3.6 b"],
    "DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["x"], "Options": ["ndots:1"]},
    "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
    "Sysctls": {"a": "1", "b": "2"},
    "CapabilityAdd": ["CAP_CHOWN"],
    "CapabilityDrop": ["CAP_KILL"],
}


@pytest.fixture
def web(daemon):
    found = recorded.services()[0]
    found["Spec"]["TaskTemplate"]["ContainerSpec"] |= copy.deepcopy(CONTAINER)
    daemon.script = {
        "GET /services/api-web": (200, found),
        "GET /networks/host": (200, {"Id": "host1"}),
        f"POST /services/{found['ID']}/update": (200, {"Warnings": None}),
    }
    return found


def task_after(swarmlet, daemon, flags: str) -> dict:
    result = swarmlet("service", "update", "-d", *shlex.split(flags), "api-web")
    assert result.code == 0, result.err
    return daemon.posted()[-1].body["TaskTemplate"]


CHANGES = [
    (
        "--mount-add type=tmpfs,target=/z --mount-rm /x",
        {"Mounts": [CONTAINER["Mounts"][1], {"Type": "tmpfs", "Target": "/z"}]},
    ),
    (
        "--mount-add type=bind,source=/c,target=/x",
        {"Mounts": [{"Type": "bind", "Source": "/c", "Target": "/x"}, CONTAINER["Mounts"][1]]},
    ),
    ("--group-add 6 --group-rm 5", {"Groups": ["6"]}),
    ("--host-rm a", {"Hosts": ["1.2.3.6 b"]}),
    ("--host-rm a:1.2.3.5 --host-add c:::1", {"Hosts": ["1.2.3.4 a", "1.2.3.6 b", "::1 c"]}),
    (
        "--dns-add 2.2.2.2 --dns-rm 1.1.1.1 --dns-search-add y --dns-option-rm ndots:1",
        {"DNSConfig": {"Nameservers": ["2.2.2.2"], "Search": ["x", "y"], "Options": []}},
    ),
    ("--ulimit-add nofile=5", {"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 5}]}),
    ("--ulimit-rm nofile", {"Ulimits": []}),
    ("--sysctl-add a=3 --sysctl-rm b", {"Sysctls": {"a": "3"}}),
    (
        "--cap-add KILL --cap-drop CHOWN",
        {"CapabilityAdd": ["CAP_KILL"], "CapabilityDrop": ["CAP_CHOWN"]},
    ),
    (
        "--cap-add NET_ADMIN --cap-drop net_admin",
        {"CapabilityAdd": ["CAP_CHOWN"], "CapabilityDrop": ["CAP_KILL", "CAP_NET_ADMIN"]},
    ),
    ("--oom-score-adj -5", {"OomScoreAdj": -5}),
]


@pytest.mark.parametrize(("flags", "fields"), CHANGES, ids=[f for f, _ in CHANGES])
def test_list_of_the_container_is_changed_and_nothing_else(flags, fields, swarmlet, daemon, web):
    container = task_after(swarmlet, daemon, flags)["ContainerSpec"]
    assert container == {**web["Spec"]["TaskTemplate"]["ContainerSpec"], **fields}


def test_adding_what_is_there_changes_nothing(swarmlet, daemon, web):
    flags = (
        "--mount-add type=bind,source=/a,target=/x --group-add 5 --host-add a:1.2.3.4"
        " --dns-add 1.1.1.1 --ulimit-add nofile=1:2 --sysctl-add a=1 --cap-add CHOWN"
        " --cap-drop KILL"
    )
    container = task_after(swarmlet, daemon, flags)["ContainerSpec"]
    assert container == web["Spec"]["TaskTemplate"]["ContainerSpec"]


def test_lists_of_the_task_change_too(swarmlet, daemon, web):
    web["Spec"]["TaskTemplate"]["Placement"] = {
        "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.a"}}]
    }
    task = task_after(
        swarmlet,
        daemon,
        "--placement-pref-add spread=node.labels.b --placement-pref-rm spread=node.labels.a"
        " --generic-resource-add gpu=2 --log-driver local --log-opt max-size=1m",
    )
    assert task["Placement"]["Preferences"] == [{"Spread": {"SpreadDescriptor": "node.labels.b"}}]
    assert task["Resources"]["Reservations"]["GenericResources"] == [
        {"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}
    ]
    assert task["LogDriver"] == {"Name": "local", "Options": {"max-size": "1m"}}


@pytest.mark.parametrize(
    ("flag", "before", "after"),
    [
        ("--network-add", [], [{"Target": "host1"}]),
        ("--network-add", [{"Target": "host1"}], [{"Target": "host1"}]),
        ("--network-rm", [{"Target": "other"}, {"Target": "host1"}], [{"Target": "other"}]),
    ],
)
def test_networks_are_joined_and_left_by_name(flag, before, after, swarmlet, daemon, web):
    web["Spec"]["TaskTemplate"]["Networks"] = before
    assert task_after(swarmlet, daemon, f"{flag} host")["Networks"] == after


HEALTH = {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000}


@pytest.mark.parametrize(
    ("flags", "before", "after"),
    [
        ("--no-healthcheck", HEALTH, {"Test": ["NONE"]}),
        ("--health-cmd false", HEALTH, {**HEALTH, "Test": ["CMD-SHELL", "false"]}),
        ("--health-retries 4", HEALTH, {**HEALTH, "Retries": 4}),
        ("--health-retries 4", {"Test": ["NONE"]}, {"Retries": 4}),
        ("--health-cmd x", {"Test": ["NONE"]}, {"Test": ["CMD-SHELL", "x"]}),
        ("--user 5", {"Test": ["NONE"]}, {"Test": ["NONE"]}),
    ],
)
def test_health_check_is_changed_or_switched_off(flags, before, after, swarmlet, daemon, web):
    web["Spec"]["TaskTemplate"]["ContainerSpec"]["Healthcheck"] = before
    assert task_after(swarmlet, daemon, flags)["ContainerSpec"]["Healthcheck"] == after


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--mount-add type=bind", "--mount"),
        ("--ulimit-add nofile", "NAME=SOFT[:HARD]"),
        ("--host-add a", "NAME:IP"),
        ("--generic-resource-add gpu", "KIND=N"),
        ("--generic-resource-add gpu=-1", "KIND=N"),
        ("--placement-pref-rm binpack", "spread=node.labels.KEY"),
        ("--no-healthcheck --health-retries 3", "--no-healthcheck does not go with"),
        ("--mount-add type=bind,source=/a,target=/b,bind-recursive=maybe", "bind-recursive"),
    ],
)
def test_wrong_value_is_a_usage_error_and_changes_nothing(flags, words, swarmlet, daemon, web):
    web["Spec"]["TaskTemplate"]["Placement"] = {"Preferences": [{"Spread": {}}]}
    result = swarmlet("service", "update", "-d", *shlex.split(flags), "api-web")
    assert result.code == 2
    assert words in result.err
    assert not daemon.posted()


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        (
            "type=BIND,source=./x,target=/b,bind-propagation=RSlave,bind-recursive=disabled",
            {
                "Type": "bind",
                "Source": os.path.abspath("x"),
                "Target": "/b",
                "BindOptions": {"Propagation": "rslave", "NonRecursive": True},
            },
        ),
        (
            "type=bind,source=/x,target=/b,ro,bind-recursive=readonly",
            {
                "Type": "bind",
                "Source": "/x",
                "Target": "/b",
                "ReadOnly": True,
                "BindOptions": {"ReadOnlyForceRecursive": True},
            },
        ),
        (
            "type=bind,source=/x,target=/b,bind-nonrecursive",
            {
                "Type": "bind",
                "Source": "/x",
                "Target": "/b",
                "BindOptions": {"NonRecursive": True},
            },
        ),
    ],
)
def test_bind_options_read_as_docker_has_them(text, mount, swarmlet, daemon, web):
    mounts = task_after(swarmlet, daemon, f"--mount-add {text}")["ContainerSpec"]["Mounts"]
    assert mounts[-1] == mount

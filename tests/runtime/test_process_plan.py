"""What the process runtime accepts, refuses and tells the shim: tables, no processes."""

import msgspec
import pytest

from swarmlet.model.base import Driver
from swarmlet.model.container import (
    AppArmorOpts,
    DNSConfig,
    HealthConfig,
    Privileges,
    SeccompOpts,
    Ulimit,
)
from swarmlet.model.service import Limit, PluginSpec, ResourceRequirements
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.process.accounts import Account, AccountRules
from swarmlet.runtime.process.host import Host
from swarmlet.runtime.process.plan import (
    PATH,
    UNLIMITED_B,
    Plan,
    parse_signal,
    plan_task,
    task_environment,
)
from swarmlet.runtime.process.ports import Port
from tests.runtime.process_world import assigned

HOST = Host(
    boot_id="boot", uid=0, hostname="node-1", unprivileged_port_min=1024, isolation_problem=""
)
RULES = AccountRules(uid=0)


def plan(*command: str, host: Host = HOST, rules: AccountRules = RULES, **more) -> Plan:
    return plan_task(assigned("t", *(command or ("sleep", "1")), **more), host, rules)


def problem(**more) -> RuntimeProblemError:
    with pytest.raises(RuntimeProblemError) as caught:
        plan(**more)
    assert caught.value.remedy
    assert caught.value.message.endswith(".")
    return caught.value


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ({"image": "nginx:1"}, '"nginx:1"'),
        ({"image": "host@sha256:00"}, '"host@sha256:00"'),
        ({"healthcheck": HealthConfig(test=["CMD"])}, "health check"),
        ({"healthcheck": HealthConfig(test=["CMD", ""])}, "health check"),
        ({"healthcheck": HealthConfig(test=["CMD-SHELL", "a", "b"])}, "health check"),
        ({"healthcheck": HealthConfig(test=["curl", "x"])}, "health check"),
        ({"healthcheck": HealthConfig(test=["CMD", "a\0"])}, "NUL"),
        ({"read_only": True}, "read-only"),
        ({"tty": True}, "terminal"),
        ({"open_stdin": True}, "standard input"),
        ({"hosts": ["1.2.3.4 a"]}, "hosts file"),
        ({"dns_config": DNSConfig(search=["x"])}, "name servers"),
        ({"sysctls": {"a": "1"}}, "sysctls"),
        ({"capability_add": ["NET_ADMIN"]}, "capabilities"),
        ({"privileges": Privileges(seccomp=SeccompOpts(mode="custom"))}, "privileges"),
        ({"isolation": "hyperv"}, "isolation"),
        ({"user": "root"}, "root's power"),
        ({"user": "0"}, "root's power"),
        ({"user": "daemon:0"}, "root's power"),
        ({"user": "daemon", "groups": ["root"]}, "root's power"),
        ({"user": "no-such-user"}, '"no-such-user"'),
        ({"user": "123456789012"}, '"123456789012"'),
        ({"user": "daemon:no-such-group"}, '"no-such-group"'),
        ({"groups": ["daemon"]}, "need a user"),
        ({"stop_signal": "SIGNOPE"}, '"SIGNOPE"'),
        ({"dir": "/a\0b"}, "NUL"),
        ({"ulimits": [Ulimit(name="nope", soft=1, hard=1)]}, '"nope"'),
        ({"log_driver": Driver(name="syslog")}, '"syslog"'),
        ({"log_driver": Driver(name="json-file", options={"tag": "x"})}, '"tag"'),
        ({"log_driver": Driver(options={"max-size": "ten"})}, "max-size=ten"),
        ({"log_driver": Driver(options={"max-file": "0"})}, "max-file=0"),
        ({"resources": ResourceRequirements(limits=Limit(nano_cpus=10**9))}, "CPUs"),
        ({"resources": ResourceRequirements(swap_bytes=1)}, "swap"),
        (
            {"user": "daemon", "resources": ResourceRequirements(limits=Limit(pids=5))},
            "account of its own",
        ),
        ({"ports": (("tcp", 80, 80),)}, "Port 80/tcp"),
        ({"ports": (("sctp", 80, 8080),)}, "sctp"),
    ],
)
def test_option_that_cannot_be_given_is_refused_by_name(option, word):
    assert word in problem(**option).message


def test_task_without_a_container_is_refused():
    task = assigned("t", "true")
    spec = msgspec.structs.replace(task.spec, container_spec=None, plugin_spec=PluginSpec())
    with pytest.raises(RuntimeProblemError, match="plugin"):
        plan_task(msgspec.structs.replace(task, spec=spec), HOST, RULES)


def test_task_without_a_command_is_refused():
    with pytest.raises(RuntimeProblemError, match="no command"):
        plan_task(assigned("t"), HOST, RULES)


@pytest.mark.parametrize(
    "option",
    [
        {"image": "host:latest"},
        {"init": True},
        {"healthcheck": HealthConfig(test=["NONE"])},
        {"dns_config": DNSConfig()},
        {"capability_drop": ["ALL"]},
        {"isolation": "default"},
        {"privileges": Privileges(no_new_privileges=True)},
        {"privileges": Privileges(seccomp=SeccompOpts(mode="unconfined"))},
        {"privileges": Privileges(app_armor=AppArmorOpts(mode="disabled"))},
        {"oom_score_adj": -5},
    ],
)
def test_option_that_asks_for_what_is_so_anyway_is_accepted(option):
    assert plan(**option).arguments == ("sleep", "1")


def test_command_and_args_are_joined():
    assert plan("a", "b", args=["c"]).arguments == ("a", "b", "c")


def test_ordinary_users_daemon_refuses_what_only_root_can_do():
    host = Host(
        boot_id="b", uid=65534, hostname="h", unprivileged_port_min=1024, isolation_problem=""
    )
    rules = AccountRules(uid=65534)
    assert plan(host=host, rules=rules).account.uid == 65534
    assert plan(host=host, rules=rules, user="nobody").account.uid == 65534
    for option in (
        {"user": "daemon"},
        {"user": "0"},
        {"groups": ["daemon"]},
        {"oom_score_adj": -1},
        {"resources": ResourceRequirements(limits=Limit(pids=5))},
    ):
        with pytest.raises(RuntimeProblemError) as caught:
            plan(host=host, rules=rules, **option)
        assert caught.value.remedy


def test_root_without_namespaces_runs_nothing_unless_root_tasks_are_allowed():
    host = Host(
        boot_id="b",
        uid=0,
        hostname="h",
        unprivileged_port_min=1024,
        isolation_problem="namespaces: Operation not permitted",
    )
    with pytest.raises(RuntimeProblemError, match="Operation not permitted"):
        plan(host=host)
    assert plan(host=host, rules=AccountRules(uid=0, allow_root=True)).account is None


def test_capabilities_can_be_dropped_where_a_task_has_none_but_not_from_root():
    assert plan(capability_drop=["CAP_NET_RAW"]).account is None
    assert plan(user="daemon", capability_drop=["ALL"]).account
    rules = AccountRules(uid=0, allow_root=True)
    assert "capabilities" in problem(rules=rules, user="root", capability_drop=["ALL"]).message


def test_root_tasks_run_where_they_are_allowed():
    rules = AccountRules(uid=0, allow_root=True)
    assert plan(rules=rules, user="root").account.uid == 0
    assert plan(rules=rules, user="0:0", ports=(("tcp", 80, 80),)).account.gid == 0
    assert plan(rules=rules).account is None


def test_named_account_brings_its_home_and_groups():
    account = plan(user="daemon", groups=["bin"]).account
    assert (account.uid, account.gid, account.home) == (1, 1, "/usr/sbin")
    assert account.groups == (1, 2)


def test_uid_of_the_tasks_own_range_is_refused():
    rules = AccountRules(uid=0, own_min=1, own_count=10)
    with pytest.raises(RuntimeProblemError, match="belongs to one task"):
        plan(rules=rules, user="daemon")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        ("SIGRTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("64", 64),
        ("sigstkflt", 16),
    ],
)
def test_signal_is_read_by_name_or_number(text, number):
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-1", "SIG", "SIGTERM+1", "RTMAX+1", "RTMIN-1", "15x", "²"]
)
def test_signal_that_is_none_is_refused(text):
    with pytest.raises(RuntimeProblemError, match="is no signal"):
        parse_signal(text)


def test_limits_become_kernel_limits_and_ulimits_win():
    resources = ResourceRequirements(limits=Limit(memory_bytes=1 << 20, pids=7))
    found = dict(
        (kind, (soft, hard))
        for kind, soft, hard in plan(
            resources=resources,
            ulimits=[Ulimit(name="nproc", soft=5, hard=6), Ulimit(name="locks", soft=1, hard=-1)],
        ).limits
    )
    assert found == {2: (1 << 20, 1 << 20), 6: (5, 6), 10: (1, -1)}


@pytest.mark.parametrize(
    ("driver", "size_b", "files"),
    [
        (None, 10 << 20, 3),
        (Driver(name="json-file"), 10 << 20, 3),
        (Driver(name="json-file", options={"max-size": "500k", "max-file": "5"}), 500 << 10, 5),
        (Driver(name="local", options={"max-size": "1G"}), 1 << 30, 3),
        (Driver(options={"max-size": "100"}), 100, 3),
        (Driver(options={"max-size": "-1"}), UNLIMITED_B, 3),
        (Driver(name="none"), 0, 1),
    ],
)
def test_log_options_are_read(driver, size_b, files):
    made = plan(log_driver=driver)
    assert (made.log_size_b, made.log_files) == (size_b, files)


def test_environment_tells_ports_and_never_replaces_what_the_spec_sets():
    account = Account(uid=5, gid=5, home="/home/x")
    ports = (Port("tcp", 80, 8080), Port("udp", 80, 8081), Port("tcp", 443, 20001))
    assert task_environment(plan(), account, ports, HOST) == {
        "PATH": PATH,
        "HOME": "/home/x",
        "HOSTNAME": "node-1",
        "SWARMLET_TASK_ID": "t",
        "PORT": "8080",
        "PORT_80": "8080",
        "PORT_443": "20001",
    }
    own = plan(env=["PATH=/x", "PORT=1", "EMPTY=", "NAME"], hostname="box")
    assert task_environment(own, account, ports, HOST) == {
        "PATH": "/x",
        "HOME": "/home/x",
        "HOSTNAME": "box",
        "SWARMLET_TASK_ID": "t",
        "PORT": "1",
        "PORT_80": "8080",
        "PORT_443": "20001",
        "EMPTY": "",
    }

"""What is made of facts about kernel, network, runtimes and daemon."""

import errno

import pytest

from swarmlet.core.managers import manager_warnings
from swarmlet.core.version import VERSION
from swarmlet.doctor import cgroups, daemon, kernel, limits, network, ports, runtimes
from swarmlet.doctor.world import Asked
from tests.doctor.test_host import check


def namespaces(*missing: str, is_root: bool = True, **fields: object) -> kernel.Namespaces:
    problems = {kind: "unshare: not permitted" if kind in missing else "" for kind in kernel.KINDS}
    given = {"is_root": is_root, "problems": problems, "users_max": 10_000, "restriction": ""}
    return kernel.Namespaces(**(given | fields))


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (namespaces(), "ok", ("mnt, pid",)),
        (namespaces(is_root=False), "ok", ("inside a user namespace",)),
        (namespaces("net", "pid"), "warn", ("pid, net", "--privileged")),
        (namespaces("user"), "warn", ("User namespaces cannot", "not permitted")),
        (namespaces("user", users_max=0), "warn", ("user.max_user_namespaces",)),
        (namespaces("user", "mnt"), "warn", ("nor mnt", "--privileged")),
        (
            namespaces(
                *kernel.KINDS, is_root=False, restriction="kernel.unprivileged_userns_clone=1"
            ),
            "warn",
            ("sysctl -w kernel.unprivileged_userns_clone=1",),
        ),
    ],
)
def test_namespaces_say_which_kinds_are_missing_and_why(facts, verdict, words):
    check(kernel.judge_namespaces(facts), verdict, *words)


@pytest.mark.parametrize(
    ("is_root", "problem", "memory_problem", "verdict", "word"),
    [
        (True, "", "", "ok", "/var/lib"),
        (False, "", "", "ok", "user namespace"),
        (True, "mount overlay: Invalid argument", "", "warn", "another --data-dir"),
        (
            True,
            "mount overlay: No such device",
            "mount overlay: No such device",
            "warn",
            "modprobe",
        ),
        (False, "unshare: no", "unshare: no", "skipped", "ordinary user"),
    ],
)
def test_overlay_tells_the_kernel_from_the_disk(is_root, problem, memory_problem, verdict, word):
    facts = kernel.Overlay(
        is_root=is_root, path="/var/lib", problem=problem, memory_problem=memory_problem
    )
    check(kernel.judge_overlay(facts), verdict, word)


V1 = """\
30 22 0:30 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
"""
V2 = "31 30 0:31 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("mountinfo", "version"),
    [(V1, "v1"), (V2, "v2"), (V1 + V2, "hybrid"), ("", "")],
)
def test_cgroup_version_is_read_from_the_mounts(mountinfo, version):
    assert cgroups.parse_mounts(mountinfo, "0::/user.slice").version == version


def test_cgroup_controllers_are_found_with_their_own_groups():
    found = cgroups.parse_mounts(
        V1, "4:memory:/docker/x\n3:cpu,cpuacct:/y\n1:name=systemd:/z\n0::/"
    )
    assert found.controllers == {
        "cpu": "/sys/fs/cgroup/cpu",
        "cpuacct": "/sys/fs/cgroup/cpu",
        "memory": "/sys/fs/cgroup/memory",
    }
    assert found.controllers_own == {"cpu": "/y", "cpuacct": "/y", "memory": "/docker/x"}


@pytest.mark.parametrize(
    ("is_root", "version", "writable", "problem", "verdict", "word"),
    [
        (True, "v2", ("cpu", "io", "memory", "pids"), "", "ok", "io"),
        (True, "hybrid", ("cpu", "memory", "pids"), "", "ok", "crun refuses"),
        (True, "v2", ("cpu",), "", "warn", "+memory +pids"),
        (True, "v1", (), "/x: Read-only file system", "warn", "remount"),
        (False, "v1", (), "/x: Permission denied", "skipped", "only root"),
        (False, "v2", ("memory", "pids"), "", "warn", "cpu are not delegated"),
        (True, "", (), "", "warn", "mount -t cgroup2"),
    ],
)
def test_cgroups_warn_where_a_limit_cannot_be_set(
    is_root, version, writable, problem, verdict, word
):
    facts = cgroups.Groups(is_root=is_root, version=version, writable=writable, problem=problem)
    check(cgroups.judge_groups(facts), verdict, word)


@pytest.mark.parametrize(
    ("judgement", "verdict", "word"),
    [
        (limits.judge_files(limits.Files(soft=1024, hard=524_288)), "ok", "524288"),
        (limits.judge_files(limits.Files(soft=-1, hard=-1)), "ok", "unlimited"),
        (limits.judge_files(limits.Files(soft=1024, hard=4096)), "warn", "LimitNOFILE=8192"),
        (
            limits.judge_processes(
                limits.Processes(of_user=-1, pid_max=4_194_304, threads_max=None)
            ),
            "ok",
            "unknown",
        ),
        (
            limits.judge_processes(limits.Processes(of_user=100, pid_max=32_768, threads_max=1)),
            "warn",
            "LimitNPROC",
        ),
        (
            limits.judge_processes(limits.Processes(of_user=-1, pid_max=999, threads_max=1)),
            "warn",
            "kernel.pid_max",
        ),
        (limits.judge_inotify(limits.Inotify(instances=128, watches=8192)), "ok", "128"),
        (
            limits.judge_inotify(limits.Inotify(instances=127, watches=8192)),
            "warn",
            "instances=128",
        ),
        (limits.judge_inotify(limits.Inotify(instances=128, watches=8191)), "warn", "watches=8192"),
        (limits.judge_inotify(limits.Inotify(instances=None, watches=None)), "warn", "no inotify"),
        (limits.judge_forwarding(1), "ok", "forwarded"),
        (limits.judge_forwarding(0), "warn", "ip_forward=1"),
        (limits.judge_low_ports(limits.LowPorts(is_root=True, first=1024)), "ok", "root alone"),
        (limits.judge_low_ports(limits.LowPorts(is_root=False, first=None)), "warn", "1024"),
        (limits.judge_low_ports(limits.LowPorts(is_root=False, first=0)), "ok", "everybody"),
        (limits.judge_listen_queue(4096), "ok", "4096"),
        (limits.judge_listen_queue(128), "warn", "somaxconn=1024"),
        (limits.judge_listen_queue(None), "skipped", "somaxconn"),
        (limits.judge_neighbours(1024), "ok", "1024"),
        (limits.judge_neighbours(512), "warn", "gc_thresh3=1024"),
        (limits.judge_neighbours(None), "skipped", "gc_thresh3"),
        (limits.judge_bridge_filter(None), "ok", "not loaded"),
        (limits.judge_bridge_filter(1), "ok", "FORWARD"),
        (limits.judge_bridge_filter(0), "ok", "no iptables"),
    ],
)
def test_limit_is_judged_by_the_least_that_will_do(judgement, verdict, word):
    check(judgement, verdict, word)


WORKS = network.Tried(is_root=True, program="")
IN_USER_NAMESPACE = network.Tried(is_root=False, program="")
NOT_BUILT = network.Tried(
    is_root=True, program="", problem="Unknown device type", not_built=("CONFIG_VXLAN",)
)
FAILED = network.Tried(is_root=True, program="", problem="Unknown device type")


@pytest.mark.parametrize(
    ("facts", "verdict", "word"),
    [
        (WORKS, "ok", "can be made."),
        (IN_USER_NAMESPACE, "ok", "inside a user namespace"),
        (FAILED, "warn", "modprobe vxlan"),
        (NOT_BUILT, "warn", "another kernel: this one has no CONFIG_VXLAN"),
        (network.Tried(is_root=True, program="ip"), "warn", "apt-get install iproute2"),
        (network.Tried(is_root=False, program="", namespace_problem="no"), "skipped", "sudo"),
        (network.Tried(is_root=True, program="", namespace_problem="no"), "warn", "--privileged"),
    ],
)
def test_network_trial_says_what_is_missing(facts, verdict, word):
    check(network.judge_vxlan(facts), verdict, word)


@pytest.mark.parametrize(
    ("esp", "has_wireguard", "verdict", "word"),
    [
        (WORKS, False, "ok", "ESP"),
        (FAILED, True, "ok", "wireguard-go is installed"),
        (FAILED, False, "warn", "apt-get install wireguard-go"),
    ],
)
def test_encryption_is_served_by_esp_or_wireguard(esp, has_wireguard, verdict, word):
    facts = network.Encryption(esp=esp, has_wireguard=has_wireguard)
    check(network.judge_encryption(facts), verdict, word)


def port(
    number: int, problem: int = errno.EADDRINUSE, *holders: tuple[int, str], kind: str = "tcp"
) -> ports.Port:
    return ports.Port(kind=kind, number=number, problem=problem, holders=holders)


@pytest.mark.parametrize(
    ("found", "is_root", "verdict", "words"),
    [
        ((port(2377, 0), port(4789, 0, kind="udp")), True, "ok", ("Free: 2377/tcp, 4789/udp",)),
        ((port(2377, errno.EADDRINUSE, (7, "python")),), True, "ok", ("own daemon",)),
        (
            (port(2377, errno.EADDRINUSE, (9, "dockerd")),),
            True,
            "fail",
            ("dockerd (process 9)", "docker swarm leave"),
        ),
        (
            (port(2377, errno.EADDRINUSE, (9, "nginx")),),
            True,
            "fail",
            ("--listen-addr 0.0.0.0:2378",),
        ),
        ((port(2377),), False, "fail", ("another user",)),
        ((port(4789, kind="udp"),), True, "warn", ("the kernel", "--data-path-port")),
        ((port(7946),), True, "warn", ("ss -lnp",)),
        ((port(2377, errno.EADDRNOTAVAIL),), True, "fail", ("Cannot assign", "ip address")),
    ],
)
def test_ports_say_who_has_them(found, is_root, verdict, words):
    facts = ports.Ports(
        is_root=is_root, daemon_pid=7, listen_host="0.0.0.0", listen_port=2377, ports=found
    )
    check(ports.judge_ports(facts), verdict, *words)


def test_port_of_an_ordinary_users_daemon_is_known_by_its_word_alone():
    facts = ports.Ports(
        is_root=False,
        daemon_pid=7,
        daemon_port=2377,
        listen_host="0.0.0.0",
        listen_port=2377,
        ports=(port(2377),),
    )
    check(ports.judge_ports(facts), "ok", "swarmlet's own daemon has 2377/tcp")


NET_TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0949 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1
   1: 0100007F:0949 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 222 1
   2: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1
"""


def test_sockets_at_a_port_are_those_that_listen():
    assert ports.sockets_at(NET_TCP, 2377, is_tcp=True) == {"111"}
    assert ports.sockets_at(NET_TCP, 2377, is_tcp=False) == {"111", "222"}
    assert ports.sockets_at(NET_TCP, 81, is_tcp=True) == set()
    assert ports.sockets_at("", 2377, is_tcp=True) == set()


def docker(**fields: object) -> runtimes.Docker:
    given = {"host": "unix:///d.sock", "is_wanted": False, "is_installed": True}
    if "problem" not in fields:
        given |= {"version": "28.2.2", "api_version": "1.50", "swarm": "inactive"}
    return runtimes.Docker(**(given | fields))


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (docker(), "ok", ("28.2.2", "1.50")),
        (docker(api_version="1.41"), "ok", ()),
        (docker(api_version="1.40"), "warn", ("older",)),
        (docker(api_version="new"), "warn", ("older",)),
        (docker(swarm="active"), "warn", ("docker swarm leave",)),
        (docker(is_swarmlet=True), "fail", ("a swarmlet daemon",)),
        (docker(problem="refused", number=errno.ECONNREFUSED), "warn", ("systemctl start docker",)),
        (
            docker(problem="no such file", number=errno.ENOENT, is_installed=False),
            "warn",
            ("apt-get install docker.io",),
        ),
        (
            docker(problem="no", number=errno.EACCES, is_wanted=True),
            "fail",
            ("usermod -aG docker",),
        ),
    ],
)
def test_docker_is_judged_by_what_answers(facts, verdict, words):
    check(runtimes.judge_docker(facts), verdict, *words)


@pytest.mark.parametrize(
    ("fields", "verdict", "words"),
    [
        ({"runc": "1.1.5", "conmon": "2.1.6", "tried": "runc"}, "ok", ("runc ran a container",)),
        ({"crun": "1.8", "conmon": "2.1.6", "tried": "crun"}, "ok", ("crun ran a container",)),
        ({"runc": "1.1.5", "tried": "runc"}, "warn", ("apt-get install conmon", "runc 1.1.5")),
        ({}, "warn", ("apt-get install runc conmon",)),
        (
            {"runc": "1.1.5", "conmon": "2", "tried": "runc", "problem": "no cgroups"},
            "warn",
            ("runs no container: no cgroups",),
        ),
        (
            {"runc": "1.1.5", "conmon": "2", "tried": "runc", "is_root": False},
            "skipped",
            ("only root",),
        ),
    ],
)
def test_oci_needs_a_runtime_that_runs_and_conmon(fields, verdict, words):
    given = {"is_root": True, "runc": "", "crun": "", "conmon": ""} | fields
    check(runtimes.judge_oci(runtimes.Oci(**given)), verdict, *words)


@pytest.mark.parametrize(
    ("is_root", "problem", "verdict", "word"),
    [
        (True, "", "ok", "namespaces of its own"),
        (False, "", "ok", "this user"),
        (True, "namespaces: Operation not permitted", "warn", "--allow-root-tasks"),
    ],
)
def test_process_runtime_is_judged_by_its_isolation(is_root, problem, verdict, word):
    facts = runtimes.Process(is_root=is_root, isolation_problem=problem)
    check(runtimes.judge_process(facts), verdict, word)


def running(**fields: object) -> daemon.Daemon:
    given = {"host": "unix:///s.sock", "is_wanted": False, "pid": 7}
    if "problem" not in fields:
        given |= {"version": VERSION, "runtime": "process", "data_dir": "/d"}
    return daemon.Daemon(**(given | fields))


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (running(), "ok", ("process 7", "runtime process", "/d")),
        (running(version="0.0.9"), "warn", ("0.0.9", "systemctl restart")),
        (running(problem="no file", number=errno.ENOENT), "skipped", ("swarmlet init",)),
        (
            running(problem="refused", number=errno.ECONNREFUSED, is_wanted=True),
            "fail",
            ("No daemon answers",),
        ),
        (running(problem="denied", number=errno.EACCES), "skipped", ("sudo",)),
        (running(problem="no answer within 2 s"), "fail", ("no answer",)),
    ],
)
def test_daemon_is_judged_by_its_answer_and_version(facts, verdict, words):
    check(daemon.judge_daemon(facts), verdict, *words)


def members(count: int, *, has_leader: bool = True) -> tuple[daemon.Member, ...]:
    return tuple(
        daemon.Member(addr=f"10.0.0.{n}:2377", is_voter=True, is_leader=has_leader and n == 0)
        for n in range(count)
    )


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (daemon.Swarm(), "skipped", ("No daemon",)),
        (daemon.Swarm(state="inactive"), "skipped", ("no swarm", "swarmlet init")),
        (daemon.Swarm(state="pending"), "fail", ("pending",)),
        (daemon.Swarm(state="active", error="locked."), "fail", ("locked",)),
        (daemon.Swarm(state="active"), "ok", ("worker",)),
        (
            daemon.Swarm(state="active", is_manager=True, members=members(1)),
            "ok",
            ("1 manager, led by 10.0.0.0:2377",),
        ),
        (
            daemon.Swarm(state="active", is_manager=True, members=members(4)),
            "warn",
            ("even", "promote"),
        ),
        (daemon.Swarm(state="active", is_manager=True, members=members(9)), "warn", ("demote",)),
        (
            daemon.Swarm(
                state="active",
                is_manager=True,
                members=(
                    *members(2),
                    daemon.Member(
                        addr="10.0.0.9:2377", is_voter=True, is_leader=False, is_silent=True
                    ),
                ),
            ),
            "warn",
            ("10.0.0.9:2377 does not answer", "start the daemon there"),
        ),
        (
            daemon.Swarm(
                state="active",
                is_manager=True,
                error="1 of 3 managers answers, and 2 are needed.",
                members=members(3, has_leader=False),
            ),
            "fail",
            ("1 of 3 managers answers", "--force-new-cluster"),
        ),
        (
            daemon.Swarm(state="active", is_manager=True, members=members(3, has_leader=False)),
            "fail",
            ("None of 3 managers leads",),
        ),
        (
            daemon.Swarm(state="error", error="Node x is not part of this swarm: it was removed."),
            "fail",
            ("it was removed", "swarmlet leave --force"),
        ),
        (
            daemon.Swarm(state="locked", error='Please use "docker swarm unlock" to unlock it.'),
            "fail",
            ("is locked", "swarmlet unlock"),
        ),
    ],
)
def test_swarm_is_judged_by_its_managers(facts, verdict, words):
    check(daemon.judge_swarm(facts), verdict, *words)


@pytest.mark.parametrize(
    ("facts", "verdict", "word"),
    [
        (daemon.Swarm(), "skipped", "No daemon"),
        (daemon.Swarm(state="active"), "skipped", "Only a manager"),
        (daemon.Swarm(state="active", node_state="ready"), "ok", "ready"),
        (
            daemon.Swarm(state="active", warnings=("the Docker Engine is away",)),
            "warn",
            "The daemon warns: the Docker Engine is away.",
        ),
        (
            daemon.Swarm(state="active", node_state="down", node_message="no Docker Engine."),
            "fail",
            "down: no Docker Engine",
        ),
    ],
)
def test_node_that_is_not_ready_fails_with_the_reason(facts, verdict, word):
    check(daemon.judge_node(facts), verdict, word)


@pytest.mark.parametrize("managers", [2, 4, 8, 9])
def test_number_of_managers_is_the_swarms_line_and_not_the_nodes(managers):
    counted = manager_warnings(managers)
    body = {"Warnings": [*counted, "WARNING: the Docker Engine is away."]}
    assert counted
    assert daemon.warnings_of(Asked(status=200, body=body)) == ("the Docker Engine is away",)

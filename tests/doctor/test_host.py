"""What is made of facts about a host. Tables: the facts, the verdict, words of the sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.doctor import clock, disk, host
from swarmlet.doctor.finding import Judgement
from swarmlet.raft.hardening import RaftTiming

ALL_CAPABILITIES = (1 << 41) - 1
GIB = 1024**3


def check(judgement: Judgement, verdict: str, *words: str) -> None:
    assert judgement.verdict == verdict, judgement
    assert judgement.found.endswith(".")
    for word in words:
        assert word in f"{judgement.found} {judgement.remedy}"
    assert bool(judgement.remedy) <= (verdict != "ok")


@pytest.mark.parametrize(
    ("version", "is_optimised", "verdict", "word"),
    [
        ((3, 11, 0), False, "ok", "3.11.0"),
        ((3, 14, 1), False, "ok", "3.14.1"),
        ((3, 10, 9), False, "fail", "too old"),
        ((3, 12, 1), True, "fail", "PYTHONOPTIMIZE"),
    ],
)
def test_python_is_judged_by_version_and_assertions(version, is_optimised, verdict, word):
    facts = host.Python(version=version, is_optimised=is_optimised)
    check(host.judge_python(facts), verdict, word)


@pytest.mark.parametrize(
    ("uid", "effective", "seccomp", "verdict", "words"),
    [
        (0, ALL_CAPABILITIES, 0, "ok", ("Root with all",)),
        (0, ALL_CAPABILITIES & ~(1 << 21), 2, "warn", ("CAP_SYS_ADMIN", "seccomp", "privileged")),
        (1000, 0, 0, "ok", ("ordinary user", "1000")),
    ],
)
def test_privileges_name_what_root_lacks(uid, effective, seccomp, verdict, words):
    facts = host.Privileges(uid=uid, effective=effective, seccomp=seccomp, is_container=False)
    check(host.judge_privileges(facts), verdict, *words)


@pytest.mark.parametrize(
    ("available_b", "swap_total_b", "swap_free_b", "verdict", "word"),
    [
        (2 * GIB, 0, 0, "ok", "no swap"),
        (2 * GIB, 4 * GIB, 3 * GIB, "ok", "4 GiB of swap"),
        (100 * 1024**2, 0, 0, "warn", "100 MiB"),
        (2 * GIB, 4 * GIB, GIB // 2, "warn", "3.5 GiB of swap are in use"),
    ],
)
def test_memory_warns_where_little_is_left(available_b, swap_total_b, swap_free_b, verdict, word):
    facts = host.Memory(
        total_b=8 * GIB,
        available_b=available_b,
        swap_total_b=swap_total_b,
        swap_free_b=swap_free_b,
    )
    check(host.judge_memory(facts), verdict, word)


def test_meminfo_is_read_in_bytes():
    text = "MemTotal:       24683656 kB\nHugePages_Total:       0\nSwapFree:   8 kB"
    assert host.parse_meminfo(text) == {"MemTotal": 24683656 * 1024, "SwapFree": 8192}


def test_load_warns_beyond_four_for_each_cpu():
    check(host.judge_load(host.Load(cpus=2, load=8.0)), "ok")
    check(host.judge_load(host.Load(cpus=2, load=8.1)), "warn", "top")


@pytest.mark.parametrize(
    ("name", "addresses", "verdict", "word"),
    [
        ("web1", ("10.0.0.7",), "ok", "10.0.0.7"),
        ("web1", (), "warn", "/etc/hosts"),
        ("localhost", ("127.0.0.1",), "warn", "hostnamectl"),
        ("", (), "warn", "hostnamectl"),
    ],
)
def test_hostname_must_tell_a_node_apart_and_be_found(name, addresses, verdict, word):
    check(host.judge_hostname(host.Hostname(name=name, addresses=addresses)), verdict, word)


@pytest.mark.parametrize(
    ("found", "advertised", "verdict", "words"),
    [
        ((), "", "warn", ("127.0.0.1",)),
        ((("eth0", "10.0.0.7"),), "10.0.0.7", "ok", ("10.0.0.7 (eth0)",)),
        ((("eth0", "10.0.0.7"),), "", "warn", ("no default route", "--advertise-addr 10.0.0.7")),
        (
            (("eth0", "10.0.0.7"), ("eth1", "192.168.1.7")),
            "192.168.1.7",
            "ok",
            ("192.168.1.7 would be advertised", "10.0.0.7 (eth0)"),
        ),
    ],
)
def test_addresses_say_which_one_would_be_advertised(found, advertised, verdict, words):
    check(host.judge_addresses(host.Addresses(all=found, advertised=advertised)), verdict, *words)


def test_if_inet6_gives_global_addresses_alone():
    text = (
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "fe80000000000000fc0000fffe000002 02 40 20 80     eth0\n"
        "fd000000000000000000000000000002 02 40 00 80     eth0"
    )
    assert host.parse_if_inet6(text) == [("eth0", "fd00::2")]


@pytest.mark.parametrize(
    ("selinux", "apparmor", "verdict", "word"),
    [
        (None, None, "skipped", "Neither"),
        (None, "N", "skipped", "Neither"),
        (None, "Y", "ok", "AppArmor"),
        ("0", None, "ok", "permissive"),
        ("1", None, "warn", "chcon"),
    ],
)
def test_security_warns_where_selinux_enforces(selinux, apparmor, verdict, word):
    check(host.judge_security(host.Security(selinux=selinux, apparmor=apparmor)), verdict, word)


@given(st.floats(min_value=0, max_value=1e18))
def test_size_is_short_for_any_number_of_bytes(size_b):
    assert len(host.size(size_b)) <= len("1000000 TiB")


@pytest.mark.parametrize(
    ("wall_s", "is_synchronised", "error_max_s", "jump_s", "keeper", "verdict", "word"),
    [
        (clock.WALL_MIN_S, True, 0.002, 0.0, "chronyd", "ok", "by chronyd, off by 2 ms"),
        (clock.WALL_MIN_S, True, 0.002, 0.0, "", "ok", "Kept in time, off"),
        (clock.WALL_MIN_S, True, 1.5, 0.0, "ntpd", "warn", "timedatectl"),
        (clock.WALL_MIN_S, False, 16.0, 0.0, "", "warn", "offset is unknown"),
        (clock.WALL_MIN_S, False, 16.0, 0.0, "ntpd", "warn", "although ntpd runs"),
        (clock.WALL_MIN_S, True, 0.002, 0.2, "", "warn", "jumped by 200 ms"),
        (0.0, True, 0.002, 0.0, "", "fail", "certificates"),
    ],
)
def test_clock_is_judged_by_who_keeps_it_and_how_well(
    wall_s, is_synchronised, error_max_s, jump_s, keeper, verdict, word
):
    facts = clock.Clock(
        wall_s=wall_s,
        is_synchronised=is_synchronised,
        error_max_s=error_max_s,
        jump_s=jump_s,
        keeper=keeper,
    )
    check(clock.judge_clock(facts), verdict, word)


MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 22 0:30 / /var rw,relatime - xfs /dev/vdb rw
31 30 0:31 / /var/lib rw,relatime - nfs4 srv:/x rw,hard
40 22 0:40 / /my\\040disk ro,relatime - ext4 /dev/vdc rw
41 40 0:41 / /my\\040disk rw,relatime - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/", "/", "ext4"),
        ("/variable", "/", "ext4"),
        ("/var", "/var", "xfs"),
        ("/var/lib/swarmlet", "/var/lib", "nfs4"),
        ("/my disk/data", "/my disk", "tmpfs"),  # the one that covers the other
    ],
)
def test_mount_of_a_path_is_the_last_with_the_longest_point(path, point, kind):
    found = disk.mount_of(path, MOUNTINFO)
    assert found is not None
    assert (found.point, found.type) == (point, kind)


def data_dir(kind: str = "ext4", **fields: object) -> disk.DataDir:
    given = {
        "path": "/var/lib/swarmlet",
        "nearest": "/var/lib/swarmlet",
        "mount": disk.Mount(point="/", type=kind, options=("rw", "relatime")),
        "is_writable": True,
        "is_private": True,
    }
    return disk.DataDir(**(given | fields))


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (data_dir(), "ok", ("is on ext4",)),
        (data_dir(nearest="/var/lib"), "ok", ("is not there yet",)),
        (data_dir(mount=None), "ok", ("unknown file system",)),
        (data_dir("nfs4"), "warn", ("another host", "--data-dir")),
        (data_dir("fuse.sshfs"), "warn", ("another host",)),
        (data_dir("fuse.fuse-overlayfs"), "warn", ("a layer of a container",)),
        (data_dir("overlay"), "warn", ("a layer of a container",)),
        (data_dir("tmpfs"), "warn", ("next boot",)),
        (data_dir(is_private=False), "warn", ("chmod 0700",)),
        (data_dir(is_writable=False), "fail", ("may not write",)),
        (
            data_dir(mount=disk.Mount(point="/d", type="ext4", options=("ro",))),
            "fail",
            ("read-only", "mount -o remount,rw /d"),
        ),
    ],
)
def test_data_dir_is_judged_by_its_file_system_and_rights(facts, verdict, words):
    check(disk.judge_data_dir(facts), verdict, *words)


@pytest.mark.parametrize(
    ("free_b", "inodes_free", "inodes_total", "verdict"),
    [
        (50 * GIB, 1_000_000, 2_000_000, "ok"),
        (50 * GIB, 0, 0, "ok"),  # btrfs has no such limit
        (50 * GIB, 12, 2_000_000, "warn"),
        (GIB // 2, 1_000_000, 2_000_000, "warn"),
        (10 * 1024**2, 1_000_000, 2_000_000, "fail"),
    ],
)
def test_space_is_judged_by_bytes_and_inodes(free_b, inodes_free, inodes_total, verdict):
    facts = disk.Space(
        path="/d",
        free_b=free_b,
        total_b=100 * GIB,
        inodes_free=inodes_free,
        inodes_total=inodes_total,
    )
    check(disk.judge_space(facts), verdict, "du -x" if verdict != "ok" else "free")


@pytest.mark.parametrize(
    ("durations_s", "verdict", "words"),
    [
        ([0.002] * 50, "ok", ("2 ms (median)", "100 ms")),
        ([0.002] * 49 + [0.09], "ok", ()),
        ([0.002] * 48 + [0.3] * 2, "warn", ("longer than a heartbeat", "300 ms (p99 of 50)")),
        ([0.7] * 3, "fail", ("longer than an election",)),
        ([], "unknown", ("No space left",)),
    ],
)
def test_sync_is_judged_against_heartbeat_and_election(durations_s, verdict, words):
    facts = disk.Sync(
        path="/d",
        durations_s=tuple(durations_s),
        problem="" if durations_s else "No space left on device",
    )
    check(disk.judge_sync(facts), verdict, *words)


@given(st.lists(st.floats(min_value=1e-5, max_value=2.0), min_size=1, max_size=50))
def test_sync_judged_worse_never_follows_from_faster_disks(durations_s):
    order = ("ok", "warn", "fail")
    judged = disk.judge_sync(disk.Sync(path="/d", durations_s=tuple(durations_s)))
    halved = tuple(duration_s / 2 for duration_s in durations_s)
    faster = disk.judge_sync(disk.Sync(path="/d", durations_s=halved))
    assert order.index(faster.verdict) <= order.index(judged.verdict)


def test_times_are_those_of_the_engine():
    assert RaftTiming().heartbeat_period_s == disk.HEARTBEAT_PERIOD_S
    assert RaftTiming().election_min_s == disk.ELECTION_MIN_S

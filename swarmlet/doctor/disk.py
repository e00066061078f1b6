"""Probes of the data directory: its file system, its room, and how long a sync takes."""

import os
import tempfile
from typing import Final

import msgspec

from swarmlet.doctor.finding import Judgement, Probe, fail, ok, unknown, warn
from swarmlet.doctor.host import size
from swarmlet.doctor.world import World, mono_s, nearest_existing, read

HEARTBEAT_PERIOD_S: Final = 0.1  # raft.hardening.RaftTiming: a leader syncs and speaks this often
ELECTION_MIN_S: Final = 0.5  # raft.hardening.RaftTiming: silent for this long, it is deposed
SYNC_COUNT: Final = 50
SYNC_SIZE_B: Final = 4096
SYNC_TIME_MAX_S: Final = 1.5  # of all together
FREE_WARN_B: Final = 1024**3  # snapshots and logs of a busy swarm
FREE_MIN_B: Final = 64 * 1024**2  # a log of 32 MiB and its successor
INODES_WARN: Final = 10_000
NETWORK_TYPES: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "afs", "virtiofs")
MEMORY_TYPES: Final = ("tmpfs", "ramfs", "devtmpfs")
LAYER_TYPES: Final = ("overlay", "aufs", "fuse.fuse-overlayfs")


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """Where a path lies, of proc(5)'s mountinfo."""

    point: str
    type: str
    options: tuple[str, ...]


class DataDir(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    nearest: str  # itself, or the folder that is there and would hold it
    mount: Mount | None
    is_writable: bool
    is_private: bool  # nobody else can look into it


def mount_of(path: str, mountinfo: str) -> Mount | None:
    """The mount that holds `path` (real, absolute): the last of those with the longest point."""
    best: Mount | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = _unescaped(left.split()[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if not inside or (best and len(point) < len(best.point)):
            continue
        kind, _, superblock = right.split()[:3]
        options = (*left.split()[5].split(","), *superblock.split(","))
        best = Mount(point=point, type=kind, options=options)
    return best


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def look_at_data_dir(world: World) -> DataDir:
    nearest = nearest_existing(world.data_dir)
    is_there = nearest == world.data_dir
    return DataDir(
        path=world.data_dir,
        nearest=nearest,
        mount=mount_of(os.path.realpath(nearest), read("/proc/self/mountinfo") or ""),
        is_writable=os.access(nearest, os.W_OK | os.X_OK),
        is_private=not is_there or not os.stat(nearest).st_mode & 0o077,
    )


def judge_data_dir(facts: DataDir) -> Judgement:
    kind = facts.mount.type if facts.mount else "an unknown file system"
    if facts.mount and "ro" in facts.mount.options:
        point = facts.mount.point
        return fail(
            f"{facts.path} is on {point}, which is read-only.", f"mount -o remount,rw {point}"
        )
    if not facts.is_writable:
        return fail(
            f"This user may not write into {facts.nearest}, where the data would lie.",
            "sudo swarmlet doctor, or another --data-dir",
        )
    if problem := _of_type(kind):
        return warn(f"{facts.path} is on {kind}: {problem}.", "another --data-dir")
    if not facts.is_private:
        return warn(f"Others may look into {facts.path}.", f"chmod 0700 {facts.path}")
    there = "is" if facts.path == facts.nearest else "is not there yet and would be"
    return ok(f"{facts.path} {there} on {kind}.")


def _of_type(kind: str) -> str:
    if kind in NETWORK_TYPES or (kind.startswith("fuse.") and kind not in LAYER_TYPES):
        return "syncs and locks depend on another host"
    if kind in MEMORY_TYPES:
        return "all is lost with the next boot"
    if kind in LAYER_TYPES:
        return "a layer of a container, lost with it"
    return ""


class Space(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    free_b: int
    total_b: int
    inodes_free: int
    inodes_total: int  # 0 where the file system has no such limit


def look_at_space(world: World) -> Space:
    nearest = nearest_existing(world.data_dir)
    found = os.statvfs(nearest)
    return Space(
        path=nearest,
        free_b=(found.f_bfree if world.is_root else found.f_bavail) * found.f_frsize,
        total_b=found.f_blocks * found.f_frsize,
        inodes_free=found.f_ffree if world.is_root else found.f_favail,
        inodes_total=found.f_files,
    )


def judge_space(facts: Space) -> Judgement:
    found = f"{size(facts.free_b)} of {size(facts.total_b)} are free"
    if facts.inodes_total:
        found += f", and {facts.inodes_free} inodes"
    if facts.free_b < FREE_MIN_B:
        return fail(
            f"{found}: too little for the log.", f"du -xh --max-depth=2 {facts.path} | sort -h"
        )
    if facts.inodes_total and facts.inodes_free < INODES_WARN:
        return warn(f"{found}.", f"du -x --inodes --max-depth=2 {facts.path} | sort -n")
    if facts.free_b < FREE_WARN_B:
        return warn(f"{found}.", f"du -xh --max-depth=2 {facts.path} | sort -h")
    return ok(f"{found}.")


class Sync(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    durations_s: tuple[float, ...]
    problem: str = ""


def look_at_sync(world: World) -> Sync:
    """Write and sync a file that has no name, so that nothing can stay behind."""
    nearest = nearest_existing(world.data_dir)
    durations_s: list[float] = []
    block = os.urandom(SYNC_SIZE_B)  # bytes that do not compress
    until_s = mono_s() + SYNC_TIME_MAX_S
    try:
        with tempfile.TemporaryFile(dir=nearest, buffering=0) as file:
            while len(durations_s) < SYNC_COUNT and mono_s() < until_s:
                begin_s = mono_s()
                file.write(block)
                os.fsync(file.fileno())
                durations_s.append(mono_s() - begin_s)
    except OSError as error:
        return Sync(path=nearest, durations_s=(), problem=error.strerror or str(error))
    return Sync(path=nearest, durations_s=tuple(durations_s))


def judge_sync(facts: Sync) -> Judgement:
    if not facts.durations_s:
        return unknown(f"A sync in {facts.path} could not be measured: {facts.problem}.")
    ordered = sorted(facts.durations_s)
    half_s, most_s = ordered[len(ordered) // 2], ordered[int((len(ordered) - 1) * 0.99)]
    figures = f"{ms(half_s)} ms (median), {ms(most_s)} ms (p99 of {len(ordered)})"
    found = f"Writing and syncing 4 KiB takes {figures}"
    if half_s > ELECTION_MIN_S:
        return fail(f"{found}: longer than an election, so no leader would last.", _FASTER)
    if most_s > HEARTBEAT_PERIOD_S:
        return warn(f"{found}: longer than a heartbeat of {ms(HEARTBEAT_PERIOD_S)} ms.", _FASTER)
    return ok(f"{found}; a heartbeat is {ms(HEARTBEAT_PERIOD_S)} ms.")


_FASTER: Final = "--data-dir on a disk of its own (an SSD); `iostat -x 1` shows who else writes"


def ms(duration_s: float) -> str:
    return f"{duration_s * 1000:.3g}"


PROBES: Final = (
    Probe(
        name="data-dir",
        matters_for="the daemon's start, the swarm's state",
        look=look_at_data_dir,
        judge=judge_data_dir,
    ),
    Probe(
        name="disk-space",
        matters_for="the swarm's state, images, logs",
        look=look_at_space,
        judge=judge_space,
    ),
    Probe(
        name="disk-sync",
        matters_for="every change of the swarm, a leader that lasts",
        look=look_at_sync,
        judge=judge_sync,
    ),
)

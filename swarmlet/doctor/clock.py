"""Probe of the clock: who keeps it, how far it may be off, whether it jumps."""

import ctypes
import os
from typing import Final

import msgspec

from swarmlet.doctor.finding import Judgement, Probe, fail, ok, warn
from swarmlet.doctor.world import World, clocks_s, pause, read
from swarmlet.runtime.process.kernel import libc

WALL_MIN_S: Final = 1_767_225_600  # 2026-01-01: no certificate of this software is older
OFF_MAX_S: Final = 1.0  # logs of several nodes can still be read side by side
JUMP_MAX_S: Final = 0.05  # between two readings; slewing moves 0.5 ms a second
WATCH_PERIOD_S: Final = 0.01
WATCH_COUNT: Final = 20
KEEPERS: Final = ("chronyd", "ntpd", "systemd-timesyn", "openntpd", "ptp4l", "phc2sys")
"""Names of programs that keep a clock, as /proc cuts them (15 characters)."""
_KEEP: Final = "timedatectl set-ntp true, or apt-get install chrony"
_DAY_S: Final = 86_400
STA_UNSYNC: Final = 0x0040  # adjtimex(2)


class Timex(ctypes.Structure):
    """struct timex of adjtimex(2)."""

    _fields_ = [  # type: ignore[mutable-override]
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", ctypes.c_long * 2),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    ]


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    wall_s: float
    is_synchronised: bool
    error_max_s: float  # the kernel's bound; it means nothing where the clock is not kept
    jump_s: float  # the largest step of the wall clock against the monotonic one
    keeper: str


def look_at_clock(_world: World) -> Clock:
    found = read_kernel_clock()
    return Clock(
        wall_s=clocks_s()[0],
        is_synchronised=not found.status & STA_UNSYNC,
        error_max_s=found.maxerror / 1e6,
        jump_s=_watch(),
        keeper=_keeper(),
    )


def read_kernel_clock() -> Timex:
    """What the kernel knows of its clock; changes nothing. Raises OSError."""
    found = Timex()  # modes 0: only read
    if libc.adjtimex(ctypes.byref(found)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found


def _watch() -> float:
    largest_s = 0.0
    wall, mono = clocks_s()
    for _ in range(WATCH_COUNT):
        pause(WATCH_PERIOD_S)
        now_wall, now_mono = clocks_s()
        largest_s = max(largest_s, abs((now_wall - wall) - (now_mono - mono)))
        wall, mono = now_wall, now_mono
    return largest_s


def _keeper() -> str:
    pids = sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int)
    for pid in pids:
        if (name := read(f"/proc/{pid}/comm")) in KEEPERS:
            return str(name)
    return ""


def judge_clock(facts: Clock) -> Judgement:
    if facts.wall_s < WALL_MIN_S:
        days = int((WALL_MIN_S - facts.wall_s) / _DAY_S)
        return fail(
            f"The clock is at least {days} days slow: certificates would not be valid yet.", _KEEP
        )
    if facts.jump_s > JUMP_MAX_S:
        return warn(
            f"The clock jumped by {facts.jump_s * 1000:.0f} ms while it was watched: something"
            " steps it rather than slewing it.",
            "chronyc tracking, or journalctl -u systemd-timesyncd",
        )
    by = f" by {facts.keeper}" if facts.keeper else ""
    if not facts.is_synchronised:
        also = f" although {facts.keeper} runs" if facts.keeper else ""
        return warn(
            f"The kernel calls its clock unsynchronised{also}; its offset is unknown.", _KEEP
        )
    found = f"Kept in time{by}, off by {facts.error_max_s * 1000:.3g} ms at most."
    return warn(found, _KEEP) if facts.error_max_s > OFF_MAX_S else ok(found)


PROBES: Final = (
    Probe(
        name="clock",
        matters_for="certificates, join tokens, logs of several nodes",
        look=look_at_clock,
        judge=judge_clock,
    ),
)

"""Looking for what a task left, among processes that are nobody's friends."""

import os
import subprocess
import sys

import pytest

from swarmlet.runtime.process.processes import ENVIRONMENT_MAX_B, ProcessIdentity, left_of

HUGE = """
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.sbrk.restype = ctypes.c_void_p
size = 1 << 27
place = libc.mmap(None, ctypes.c_size_t(size), 3, 0x4022, -1, 0)
stat = open("/proc/self/stat").read().rpartition(")")[2].split()
code, data, args = stat[23:25], stat[42:45], stat[45:47]
words = [*map(int, code), *map(int, data), libc.sbrk(0), int(stat[25]), *map(int, args)]
made = struct.pack("11QPIi", *words, place, place + size, 0, 0, -1)
done = libc.prctl(35, 14, ctypes.create_string_buffer(made), ctypes.c_ulong(len(made)), 0)
print("huge" if done == 0 else "refused", flush=True)
sys.stdin.read()
"""


def spawn(code: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def peak_b() -> int:
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_what_bears_the_entry_is_found_and_nothing_else():
    with spawn("print(1, flush=True); input()", A="b") as one, spawn("input()", A="bc") as other:
        assert one.stdout
        assert one.stdout.readline()
        found = left_of(None, "A=b")
        assert [process.pid for process in found] == [one.pid]
        for process in (one, other):
            process.kill()
    assert isinstance(found[0], ProcessIdentity)


def test_environment_without_end_is_read_as_far_as_the_kernel_gives_any():
    with spawn(HUGE) as process:
        assert process.stdout
        said = process.stdout.readline().strip()
        before_b = peak_b()
        left_of(None, "A=nobody-has-this")
        grown_b = peak_b() - before_b
        process.kill()
    if said != "huge":
        pytest.skip("this kernel lets nobody call other memory an environment")
    assert grown_b < 4 * ENVIRONMENT_MAX_B

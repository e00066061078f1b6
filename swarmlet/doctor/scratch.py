"""Namespaces and mounts of a probe's own: all of it ends with the probe's process."""

import contextlib
import ctypes
import os
from collections.abc import Callable
from typing import Final

from swarmlet.runtime.process.kernel import MS_PRIVATE, MS_REC, PR_SET_PDEATHSIG, libc

CLONE: Final = {
    "mnt": 0x0002_0000,
    "cgroup": 0x0200_0000,
    "uts": 0x0400_0000,
    "ipc": 0x0800_0000,
    "user": 0x1000_0000,
    "pid": 0x2000_0000,
    "net": 0x4000_0000,
}
"""unshare(2)'s flags."""
WORDS_SIZE_MAX_B: Final = 4_096


def _check(code: int, what: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(*kinds: str) -> None:
    """Leave the namespaces of these kinds for new ones. Raises OSError."""
    flags = 0
    for kind in kinds:
        flags |= CLONE[kind]
    _check(libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, *, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError."""
    answer = libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    _check(answer, f"mount {kind}" if kind else "mount")


def enter(*kinds: str) -> None:
    """Go into new namespaces: root straight away, others by way of a user namespace. Mounts made
    in there are seen nowhere else. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(*(() if uid == 0 else ("user",)), *kinds)
    if uid != 0:
        _become_root(uid, gid)
    if "mnt" in kinds:
        mount("none", "/", "", flags=MS_REC | MS_PRIVATE)


def _become_root(uid: int, gid: int) -> None:
    """Map this user to root, which user_namespaces(7) lets everybody do once."""
    with contextlib.suppress(FileNotFoundError):  # kernels before 3.19
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")


def _write(path: str, text: str) -> None:
    with open(path, "wb", 0) as file:
        file.write(text.encode())


def die_with(parent: int) -> None:
    """Be killed when the process that forked this one, `parent`, dies; or now if it did."""
    _check(libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def attempt(action: Callable[[], object]) -> str:
    """Do it in a child, whose namespaces end with it: "" where it went well, else why not."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        words = "it did not end"
        try:
            action()
            words = ""
        except OSError as error:
            words = error.strerror or str(error)
        except Exception as error:  # noqa: BLE001 - it ends here, so its words go with it
            words = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, words.encode()[:WORDS_SIZE_MAX_B])
            os._exit(0 if not words else 1)
    os.close(writer)
    with open(reader, "rb") as answer:
        words = answer.read().decode(errors="replace")
    status = os.waitpid(pid, 0)[1]
    return words or ("" if status == 0 else "it ended without a word")


def clear(path: str) -> None:
    """Remove a file or folder with all in it; missing is success. A folder that its owner may not
    read, as overlayfs leaves one, goes too. Raises OSError."""
    try:
        os.rmdir(path)
    except OSError:
        if not os.path.lexists(path):  # also where this user may not even look for it
            return
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
            return
        os.chmod(path, 0o700)
        for name in os.listdir(path):
            clear(os.path.join(path, name))
        os.rmdir(path)

"""From fork to exec: what a child of the shim does to become the task. Stdlib only: see shim.py."""

import _signal  # type: ignore[import-not-found] # signal, built on it, costs 3 ms and 0.4 MiB more
import errno
import os
import resource

from swarmlet.runtime.process.kernel import (
    PR_SET_NO_NEW_PRIVS,
    Step,
    StepError,
    die_with_parent,
    hide,
    leave_keyring,
    leave_mounts,
    libc_call,
    prctl,
)

TIOCSCTTY = 0x540E  # of x86-64 and arm64 alike
SIGPIPE, SIGXFSZ = 13, 25  # Python ignores them; a task must not inherit that


class Config:
    """`key NUL value NUL ...`: a key may repeat. Values are bytes, as the kernel takes them."""

    def __init__(self, data: bytes) -> None:
        fields = data.split(b"\0")
        self.pairs = list(zip(fields[0::2], fields[1::2], strict=False))

    def all(self, key: bytes) -> list[bytes]:
        return [value for name, value in self.pairs if name == key]

    def text(self, key: bytes) -> bytes:
        values = self.all(key)
        return values[-1] if values else b""

    def number(self, key: bytes) -> int:
        return int(self.text(key) or b"0")


def become_task(config: Config, parent: int, streams: tuple[int, int, int]) -> None:
    """Never returns: executes the task's command, or writes `STEP ERRNO` to `parent` and ends."""
    try:
        _set_up(config, parent, streams)
        pairs = (entry.partition(b"=") for entry in config.all(b"env"))
        _execute(config.all(b"arg"), {name: value for name, _, value in pairs})
    except StepError as error:
        os.write(parent, error.line())
    except BaseException as error:  # noqa: BLE001 - it must never run on as a second shim
        os.write(parent, f"{type(error).__name__} {errno.EIO}".encode())
    finally:
        os._exit(127)


def _set_up(config: Config, parent: int, streams: tuple[int, int, int]) -> None:
    """The order matters: limits and mounts need the old rights, and a change of uid would undo
    PR_SET_PDEATHSIG (prctl(2))."""
    os.setsid()
    os.chdir("/")
    _signal.signal(SIGPIPE, _signal.SIG_DFL)
    _signal.signal(SIGXFSZ, _signal.SIG_DFL)
    os.umask(0o022)
    for target, source in enumerate(streams):
        os.dup2(source, target)
    if config.number(b"tty"):
        libc_call("terminal", "ioctl", 0, TIOCSCTTY, 0)
    with Step("oom_score_adj"):
        _score(config.number(b"oom_score_adj"))
    if config.number(b"isolate"):
        enter_namespaces(config)
    for text in config.all(b"limit"):
        _limit(*map(int, text.split()))
    if config.text(b"uid"):
        with Step("user"):
            _become(config)
        leave_keyring()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    die_with_parent(parent)
    with Step("dir"):
        os.chdir(config.text(b"dir") or b"/")


def enter_namespaces(config: Config) -> None:
    """Own mounts with what the task must not see covered and what it asked for added, own /proc,
    own host name if one is given; its secrets and configs. mounting.py says why in this order.

    All that is run is loaded before: what lies where this program does may be the task's then, and
    this is root still.
    """
    kinds, has_files = config.all(b"mount"), bool(config.all(b"file"))
    if has_files:
        from swarmlet.runtime.process.delivery import deliver  # others do not pay for it
    if not kinds:
        leave_mounts(config.text(b"hostname"))
        hide(config.all(b"hide"))
    else:
        _add_mounts(config, kinds)
    if has_files:
        deliver(config)


def _add_mounts(config: Config, kinds: list[bytes]) -> None:
    from swarmlet.runtime.process.mounting import Mounts  # nor for this

    mounts = Mounts(kinds, config.all(b"mount_source"), config.all(b"mount_target"))
    leave_mounts(config.text(b"hostname"))
    mounts.open_volumes()
    hide(config.all(b"hide"))
    mounts.open_rest(config.number(b"uid"), config.number(b"gid"), _groups(config))
    mounts.attach()


def _groups(config: Config) -> list[int]:
    return [int(group) for group in config.all(b"group")]


def _score(wanted: int) -> None:
    """Never the daemon's own. 0 is what nobody asked for: an ordinary user's tasks keep the higher
    score a session of systemd has, and that the kernel lets nobody lower."""
    with open("/proc/self/oom_score_adj", "r+b", 0) as file:
        if int(file.read()) == wanted:
            return
        try:
            file.write(b"%d" % wanted)
        except PermissionError:
            if wanted:
                raise


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit (-1: none), clipped to the present hard limit where we may not go beyond it."""
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError):
        roof = resource.getrlimit(kind)[1]
        hard = _lower(hard, roof)
        resource.setrlimit(kind, (_lower(soft, hard), hard))


def _lower(wanted: int, roof: int) -> int:
    if roof < 0:
        return wanted
    return roof if wanted < 0 else min(wanted, roof)


def _become(config: Config) -> None:
    uid, gid = config.number(b"uid"), config.number(b"gid")
    os.setgroups(_groups(config))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _execute(arguments: list[bytes], environment: dict[bytes, bytes]) -> None:
    """A command without a slash is looked for along the task's own PATH (execvp(3))."""
    name, problem = arguments[0], errno.ENOENT
    folders = [b""] if b"/" in name else environment.get(b"PATH", b"").split(b":")
    for folder in folders:
        path = os.path.join(folder, name)
        try:
            os.execve(path, arguments, environment)  # noqa: S606 - running it is what we are for
        except (FileNotFoundError, NotADirectoryError):
            if os.path.exists(path):
                raise StepError("interpreter", errno.ENOENT) from None
        except PermissionError:
            problem = errno.EACCES
        except OSError as error:
            raise StepError("exec", error.errno or errno.EIO) from error
    raise StepError("exec", problem)

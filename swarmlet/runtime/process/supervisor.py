"""The shim's life: start one task, pass its output on, bury it, say how it ended. See shim.py."""

import _signal  # type: ignore[import-not-found] # signal, built on it, costs 3 ms and 0.4 MiB more
import errno
import os
import select
import time

from swarmlet.runtime.process.kernel import (
    CLONE_NEWPID,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME,
    PR_SET_PDEATHSIG,
    SIGKILL,
    Step,
    StepError,
    prctl,
    start_time,
    unshare,
)
from swarmlet.runtime.process.log_writer import LogWriter
from swarmlet.runtime.process.sandbox import Config, become_task, enter_namespaces

SIGCHLD = 17
NOT_FORWARDED = frozenset({4, 5, 6, 7, 8, 9, 11, 13, 17, 19, 25, 31, 32, 33})
"""Signals the shim does not pass on: uncatchable, or the kernel's word about the shim itself."""
LOCK_FD = 3
KEPT_FD = 4  # what goes beside the task needs, kept in memory for the daemons to come
EXEC_FDS = (4, 5, 6)  # of a program beside a task: its input, output and errors
READ_MAX_B = 65_536  # a pipe's default capacity
DRAIN_MAX_B = 1_048_576  # a pipe's greatest capacity for an ordinary user (pipe(7))
KILL_WAIT_S = 5.0  # for what the task left behind; then the exit is told anyway
EXIT_SIZE_B = 96
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class BundleWriter:
    """The bundle's small files. `exit` gets its room at the start: a full disk must not lose it."""

    def __init__(self, folder: bytes) -> None:
        self._folder = folder
        self._exit = os.open(folder + b"/exit.new", _WRITE, 0o600)
        os.write(self._exit, b" " * EXIT_SIZE_B)

    def put(self, name: bytes, content: bytes) -> None:
        path = self._folder + b"/" + name
        fd = os.open(path + b".new", _WRITE, 0o600)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)
        os.rename(path + b".new", path)

    def put_exit(self, exit_code: int) -> None:
        at_ms = time.time_ns() // 1_000_000
        text = b'{"exit_code": %d, "at_ms": %d}' % (exit_code, at_ms)
        os.pwrite(self._exit, text.ljust(EXIT_SIZE_B - 1) + b"\n", 0)
        os.rename(self._folder + b"/exit.new", self._folder + b"/exit")


class Shim:
    """One task: its pipes, its signals, its end."""

    def __init__(self, config: Config) -> None:
        folder = config.text(b"bundle")
        self._config = config
        self._bundle = BundleWriter(folder)
        self._log = LogWriter(folder, config.number(b"log_size_b"), config.number(b"log_files"))
        self._task = self._init = 0
        self._streams: dict[int, bytes] = {}
        self._wake, self._wake_end = os.pipe()

    def run(self) -> None:
        """Start the task, answer, stay until nothing of it lives."""
        self._catch_signals()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._put_pid(b"shim.pid", os.getpid())
        try:
            self._start()
        except StepError as error:
            self._give_up(error)
            raise
        self._config = Config(b"")  # nothing of it is needed any more
        answer(b"started %d" % self._task)
        exit_code = self._supervise()
        kill_rest(self._init)
        self._drain()
        self._log.finish()
        self._bundle.put_exit(exit_code)

    def _catch_signals(self) -> None:
        os.set_blocking(self._wake, False)
        os.set_blocking(self._wake_end, False)
        _signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        _signal.signal(SIGCHLD, lambda number, frame: None)
        for number in range(1, 65):
            if number not in NOT_FORWARDED:
                _signal.signal(number, self._forward)

    def _forward(self, number: int, _frame: object) -> None:
        if self._task:
            try:
                os.killpg(self._task, number)
            except OSError:  # it is dying already, or took another uid: nothing more we could do
                return

    def _start(self) -> None:
        config = self._config
        if config.number(b"isolate"):
            self._init = fork_init()
            self._put_pid(b"init.pid", self._init)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        (out, out_end), (err, err_end), (made, made_end) = os.pipe(), os.pipe(), os.pipe()
        with Step("fork"):
            task = os.fork()
        if task == 0:
            os.close(made)
            become_task(config, made_end, (null, out_end, err_end))
        for fd in (null, out_end, err_end, made_end):
            os.close(fd)
        problem = os.read(made, 200).split()  # nothing but the end, once it has been executed
        os.close(made)
        if problem:
            raise StepError(problem[0].decode(), int(problem[1]))
        self._task, self._streams = task, {out: b"stdout", err: b"stderr"}
        self._put_pid(b"task.pid", task)

    def _put_pid(self, name: bytes, pid: int) -> None:
        line = b"%d %s\n" % (pid, start_time(str(pid)))
        with Step("bundle"):
            self._bundle.put(name, line)

    def _give_up(self, error: StepError) -> None:
        self._task = 0
        kill_rest(self._init)
        with Step("bundle"):
            self._bundle.put(b"status", error.line())
        self._bundle.put_exit(126 if error.number == errno.EACCES else 127)

    def _supervise(self) -> int:
        """Pass output on until the main process ends; its exit code, 128+N after signal N."""
        poll = select.poll()
        for fd in (*self._streams, self._wake):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd != self._wake:
                    if not self._pass_on(fd):
                        poll.unregister(fd)
                    continue
                os.read(fd, 4096)
                status = self._reap()
                if status is not None:
                    code = os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else 128 - code

    def _reap(self) -> int | None:
        """Bury the dead; the main process's status where it is among them."""
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == self._task:
                self._task, found = 0, status

    def _pass_on(self, fd: int) -> int:
        data = os.read(fd, READ_MAX_B)
        if data:
            self._log.take(self._streams[fd], data)
        return len(data)

    def _drain(self) -> None:
        """Take what is left in the pipes; not to their end, for a stranger may hold it open."""
        for fd in self._streams:
            os.set_blocking(fd, False)
            left_b = DRAIN_MAX_B
            try:
                while left_b > 0 and (size_b := self._pass_on(fd)):
                    left_b -= size_b
            except BlockingIOError:
                continue


def fork_init() -> int:
    """The first process of the task's pid namespace: it adopts orphans and only waits.

    When it dies the kernel kills everything in the namespace, so nothing of a task outlives it. The
    task itself is no pid 1: a pid 1 without handlers is deaf to SIGTERM (pid_namespaces(7)).
    """
    unshare(CLONE_NEWPID)
    reader, writer = os.pipe()
    with Step("fork"):
        pid = os.fork()
    if pid == 0:
        try:
            _signal.signal(SIGCHLD, _signal.SIG_IGN)  # the kernel buries what it adopts
            prctl(PR_SET_PDEATHSIG, SIGKILL)
            os.close(reader)
            os.write(writer, b"1")  # fails where the shim died before it could take us along
            os.closerange(0, 1024)
            while True:
                _signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return pid


def children() -> list[int]:
    found, me = [], str(os.getpid()).encode()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = file.read().rpartition(b")")[2].split()[1]
            except OSError:  # it ended meanwhile
                continue
            if parent == me:
                found.append(int(name))
    return found


def kill_rest(init: int) -> None:
    """Kill what the main process left. Without a namespace every orphan is our child (subreaper),
    and so is, once its parent is dead, the child of each."""
    if init:
        os.kill(init, SIGKILL)
    deadline_s = time.monotonic() + KILL_WAIT_S
    while time.monotonic() < deadline_s:
        for pid in () if init else children():
            os.kill(pid, SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.002)
        except ChildProcessError:
            return


def answer(line: bytes) -> None:
    """Tell the daemon, if it is still there, and let go of the pipe to it."""
    try:
        os.write(1, line + b"\n")
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def probe(config: Config) -> None:
    """Try the namespaces of an isolated task; raise StepError where they do not work here."""
    init = fork_init()
    made, made_end = os.pipe()
    if os.fork() == 0:
        try:
            enter_namespaces(config)
        except StepError as error:
            os.write(made_end, error.line())
        os._exit(0)
    os.close(made_end)
    problem = os.read(made, 200).split()
    kill_rest(init)
    if problem:
        raise StepError(problem[0].decode(), int(problem[1]))
    answer(b"started 0")


def read_config(fd: int) -> Config:
    chunks = []
    while chunk := os.read(fd, 1 << 20):
        chunks.append(chunk)
    return Config(b"".join(chunks))


def close_leaked(last: int) -> None:
    """Close what the daemon left open by accident: it would stay open for years."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > last:
            try:
                os.close(int(name))
            except OSError:  # the folder's own, gone already
                continue


def main() -> None:
    """Read the configuration, leave the daemon's family, keep the task."""
    config = read_config(0)
    close_leaked(config.number(b"last_fd") or LOCK_FD)
    try:
        if config.number(b"probe"):
            probe(config)
        elif config.number(b"check"):
            from swarmlet.runtime.process.checker import check  # no shim pays for it

            check(config)
        elif config.number(b"exec"):
            from swarmlet.runtime.process.executor import execute  # nor for this

            execute(config)
        else:
            if os.fork():
                os._exit(0)
            os.setsid()
            os.chdir("/")
            os.set_inheritable(LOCK_FD, False)
            os.set_inheritable(KEPT_FD, False)
            prctl(PR_SET_NAME, b"swarmlet-shim")
            shim = Shim(config)
            del config  # secrets and all: it lasts for years
            shim.run()
    except StepError as error:
        answer(b"failed " + error.line())
    except OSError as error:
        answer(b"failed supervisor %d" % (error.errno or errno.EIO))
    os._exit(0)

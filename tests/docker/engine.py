"""A Docker Engine of our own: in its own folder and network namespace, ended with all it started.

`python -m tests.docker.engine COMMAND...` runs a command with SWARMLET_TEST_DOCKER naming the
socket of a fresh engine that has the test image; where none can be started it says so, loudly, and
runs the command without.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from tests.daemon.harness import UnixConnection

VARIABLE = "SWARMLET_TEST_DOCKER"
IMAGE = "swarmlet-test:1"
"""busybox alone, with its applets in /bin; no entrypoint, no command."""
START_WAIT_S = 60.0
STOP_WAIT_S = 30.0
CLEANS_UP_WITHIN_S = 120.0
IN_MEMORY_B = 2 << 30  # at most; swarmlet's own image and five nodes of it take 0.3 GiB
APPLETS = (
    "cat", "chmod", "date", "echo", "env", "false", "grep", "head", "hostname", "httpd", "id",
    "kill", "ls", "mkdir", "mount", "nc", "nslookup", "ps", "rm", "sed", "seq", "sh", "sleep",
    "stat", "stty", "tail", "test", "touch", "trap", "true", "uname", "wc", "wget", "yes",
)  # fmt: skip


def missing() -> str:
    """Why no engine can be started here, or "" where one can be tried."""
    if os.getuid() != 0:
        return "only root can start a Docker Engine"
    for program, package in (
        ("dockerd", "docker.io"),
        ("busybox", "busybox-static"),
        ("ip", "iproute2"),
        ("nsenter", "util-linux"),
    ):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package {package})"
    return ""


class DockerEngine:
    """One dockerd that can be killed and started again over the same folder."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.folder, self.namespace = folder, namespace
        self.socket = f"{folder}/docker.sock"
        self.host = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        if not os.path.exists(f"/run/netns/{namespace}"):  # or it is one that runs already
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            subprocess.run(self.inside("ip", "link", "set", "lo", "up"), check=True)

    def inside(self, *command: str) -> list[str]:
        """The command that runs `command` in the engine's network, where its ports are."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *command]

    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with the end of its log."""
        self._bury()
        arguments = ["dockerd", "--host", self.host, "--data-root", f"{self.folder}/data"]
        arguments += [
            "--exec-root",
            f"{self.folder}/exec",
            "--pidfile",
            f"{self.folder}/docker.pid",
        ]
        with open(f"{self.folder}/dockerd.log", "ab") as log:
            self._process = subprocess.Popen(
                self.inside(*arguments), stdout=log, stderr=log, start_new_session=True
            )
        deadline_s = time.monotonic() + START_WAIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"dockerd did not start:\n{self.log_tail()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a crash: the containers run on until the engine's next start."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In order: it stops its containers."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """Stop it, end every process of its containers, give back mounts and network."""
        with contextlib.suppress(OSError, RuntimeError):  # it may be dead already
            for container in self.containers():
                self.call("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        self.stop()
        for pid in self._shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in reversed(self._mounts()):
            subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method: str, path: str, body: object = None) -> object:
        """One request to the engine; the decoded answer. Raises RuntimeError for a refusal."""
        content = None if body is None else json.dumps(body).encode()
        return self._send(method, path, content, "application/json")

    def containers(self) -> list[dict[str, object]]:
        """All of them, the ended ones too."""
        found = self.call("GET", "/containers/json?all=1")
        assert isinstance(found, list)
        return found

    def add_image(self, name: str = IMAGE) -> None:
        """Import busybox as an image."""
        repository, _, tag = name.rpartition(":")
        path = f"/images/create?fromSrc=-&repo={repository}&tag={tag}"
        self._send("POST", path, _busybox_tar(), "application/x-tar")

    def log_tail(self) -> str:
        return "\n".join(Path(self.folder, "dockerd.log").read_text().splitlines()[-15:])

    def _send(self, method: str, path: str, body: bytes | None, kind: str) -> object:
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {content.decode()}")
        return json.loads(content) if content[:1] in (b"[", b"{") and b"\r\n" not in content else {}

    def _bury(self) -> None:
        """What a killed engine left: its containerd dies a moment later than it, and a new engine
        that still finds that one's pid waits for it in vain."""
        left = Path(self.folder, "exec/containerd/containerd.pid")
        with contextlib.suppress(OSError, ValueError):
            command = Path("/proc", str(int(left.read_text())), "cmdline")
            deadline_s = time.monotonic() + STOP_WAIT_S
            while str(self.folder).encode() in command.read_bytes():
                if time.monotonic() > deadline_s:
                    break
                time.sleep(0.01)
        left.unlink(missing_ok=True)
        Path(self.folder, "docker.pid").unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            self._send("GET", "/_ping", None, "")
        except (OSError, RuntimeError):
            return False
        return True

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _shims(self) -> list[int]:
        """What still lives of this engine: every process whose arguments name its folder."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError):
                    arguments = Path("/proc", name, "cmdline").read_bytes()
                    if str(self.folder).encode() in arguments and b"containerd" in arguments:
                        found.append(int(name))
        return found

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [at for at in (line.split()[1] for line in lines) if at.startswith(str(self.folder))]


def _memory_free_b() -> int:
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.M)
    return int(found[1]) * 1024 if found else 0


def _busybox_tar() -> bytes:
    busybox = shutil.which("busybox")
    assert busybox is not None, "missing() says so"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("tmp", 0o1777), ("etc", 0o755), ("root", 0o700)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        tar.add(busybox, "bin/busybox")
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(users)
        tar.addfile(entry, io.BytesIO(users))
    return buffer.getvalue()


@contextlib.contextmanager
def running_engine():  # type: ignore[no-untyped-def]
    """A started engine with the test image. Raises RuntimeError where it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="swarmlet-docker-"))
    engine = DockerEngine(folder, folder.name)
    try:
        if _memory_free_b() > 2 * IN_MEMORY_B:  # a disk is slow with thousands of short-lived files
            options = ["-o", f"size={IN_MEMORY_B},mode=700"]
            subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], check=True)
        engine.start()
        engine.add_image()
        yield engine
    finally:
        engine.close()


def main(command: list[str]) -> int:
    """The command's exit code; nothing is printed after its own words."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # cleans up on its way
    environment, problem = dict(os.environ), missing()
    with contextlib.ExitStack() as stack:
        if not problem:
            try:
                environment[VARIABLE] = stack.enter_context(running_engine()).host
            except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                problem = str(error)
        if problem:
            banner = "=" * 78
            sys.stderr.write(
                f"{banner}\nNO DOCKER ENGINE: {problem}\n"
                f"Every test of the docker runtime is skipped.\n{banner}\n"
            )
            sys.stderr.flush()
        return _run(command, environment)


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Its exit code. However this program is ended, the command cleans up first."""
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):  # that the terminal tells it as well
                process.send_signal(signal.SIGINT)
            try:
                process.wait(CLEANS_UP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

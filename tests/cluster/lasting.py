"""Five nodes that outlive the program that made them: records on disk tell the next one where they
are, and are enough to remove whatever is left of them, also after a crash."""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster import backends, compose
from tests.cluster.backends import NAMES, Five
from tests.cluster.compose import ROOT, ComposeNetwork
from tests.cluster.hosts import Network, pids_in
from tests.docker.engine import DockerEngine

RECORD = Path(os.environ.get("SWARMLET_CLUSTER") or ROOT / "build/cluster") / "record.json"
CERTS = Path(os.environ.get("SWARMLET_CERTS") or ROOT / "certs/cluster")
ENDS_WITHIN_S = 20.0
ANSWERS_WITHIN_S = 5.0


class Found:
    """A process that another program started, with what a Popen has."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return 0
        return 0 if state in "ZX" else None

    def wait(self, timeout: float = ENDS_WITHIN_S) -> int:
        end_s = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end_s:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return 0

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class LastingNetwork(Network):
    """Hosts in namespaces whose switch is spoken to by two named pipes."""

    def __init__(self, directory: str) -> None:
        self.directory, self.stem = directory, os.path.basename(directory)
        super().__init__(directory, NAMES, stem=self.stem)

    def plug_in(self) -> None:
        os.mkfifo(f"{self.directory}/orders")
        os.mkfifo(f"{self.directory}/answers")
        self._open()
        with open(f"{self.directory}/switch.log", "ab") as log:
            subprocess.Popen(
                self.switch_command(),
                stdin=self._orders,
                stdout=self._answers,
                stderr=log,
                start_new_session=True,
                cwd=ROOT,
            )
        self._hear("ready")

    def attach(self) -> None:
        """To what another program made and left running."""
        self._open()
        for host in self.hosts.values():
            daemons = [pid for pid in host.pids() if _says(pid, "swarmlet.daemon", host.data)]
            host.process = Found(daemons[0]) if daemons else None  # type: ignore[assignment]

    def sweep(self) -> None:
        """Remove all of it, in whatever state it is."""
        for host in self.hosts.values():
            network = f"/run/netns/{host.namespace}"
            while os.path.exists(network) and (pids := pids_in(network)):
                _kill(*pids)
        _kill(*(pid for pid in _processes() if _says(pid, "tests.cluster.switch", self.stem)))
        for host in self.hosts.values():
            if os.path.exists(f"/run/netns/{host.namespace}"):
                subprocess.run(["ip", "netns", "delete", host.namespace], check=True)
        _unmount(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _open(self) -> None:
        """Both ends of both pipes, so that neither ever ends."""
        orders, answers = (
            os.open(f"{self.directory}/{name}", os.O_RDWR) for name in ("orders", "answers")
        )
        self._orders, self._answers = os.fdopen(orders, "w"), os.fdopen(answers, "r")

    def _hear(self, word: str) -> None:
        assert self._answers is not None
        heard = select.select([self._answers], [], [], ANSWERS_WITHIN_S)[0]
        assert heard, f"the switch does not answer:\n{self._switch_log()}"
        super()._hear(word)

    def _switch_log(self) -> str:
        return Path(f"{self.directory}/switch.log").read_text()


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _says(pid: int, *words: str) -> bool:
    """Whether its command line has all these words."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return all(word in line for word in words)


def _kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _unmount(folder: str) -> None:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    for at in reversed([line.split()[1] for line in lines]):
        if at.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", at], check=False)


def project_name() -> str:
    """What compose calls a project of this folder, unless COMPOSE_PROJECT_NAME says otherwise."""
    return os.environ.get("COMPOSE_PROJECT_NAME") or re.sub(
        r"[^-_a-z0-9]", "", ROOT.name.lower()
    ).lstrip("-_")


def end_engine(folder: Path) -> None:
    """An engine that `up` started, with all of its containers, alive or not."""
    docker = DockerEngine(folder, folder.name)
    with contextlib.suppress(OSError, ValueError):
        daemon = Found(int(Path(f"{folder}/docker.pid").read_text()))
        if _says(daemon.pid, "dockerd", str(folder)):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait()
            _kill(daemon.pid)
    containers = Path(f"{folder}/data/containers")
    ids = os.listdir(containers) if containers.is_dir() else []
    for pid in _processes():
        with contextlib.suppress(OSError):
            group = Path(f"/proc/{pid}/cgroup").read_text()
            if any(one in group for one in ids):
                _kill(pid)
    docker.close()


class Record:
    """What `up` made: written before the first of it is there, gone after the last of it."""

    def __init__(self, **fields: str) -> None:
        self.fields = fields

    @classmethod
    def read(cls) -> "Record | None":
        return cls(**json.loads(RECORD.read_text())) if RECORD.exists() else None

    def write(self) -> None:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps(self.fields))

    def net(self) -> Five:
        """To work with."""
        if self.fields["backend"] == "namespaces":
            net = LastingNetwork(self.fields["directory"])
            net.attach()
            return net
        return self._containers()

    def remove(self) -> None:
        if self.fields["backend"] == "namespaces":
            LastingNetwork(self.fields["directory"]).sweep()
        else:
            self._remove_containers()
        RECORD.unlink(missing_ok=True)

    def _containers(self) -> ComposeNetwork:
        return ComposeNetwork(self.fields["docker_host"], self.fields["project"], str(CERTS))

    def _remove_containers(self) -> None:
        engine = self.fields["engine"]
        try:
            self._containers().down()
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            if not engine:
                raise
            cause = str(error).strip().splitlines()[-1]
            sys.stderr.write(
                f"The engine does not remove its containers, so they are ended: {cause}\n"
            )
        if engine:
            end_engine(Path(engine))
        shutil.rmtree(CERTS, ignore_errors=True)


def up_in_namespaces() -> None:
    directory = tempfile.mkdtemp(prefix="swl-", dir="/tmp")
    os.chmod(directory, 0o755)
    Record(backend="namespaces", directory=directory).write()
    net = LastingNetwork(directory)
    net.make()
    net.plug_in()
    backends.form(net)


def up_in_containers() -> None:
    """On the engine that docker uses, where one answers; else on one of their own."""
    own = "" if _engine_answers() else tempfile.mkdtemp(prefix="swarmlet-cluster-", dir="/tmp")
    host = f"unix://{own}/docker.sock" if own else engine_host()
    Record(backend="compose", docker_host=host, project=project_name(), engine=own).write()
    if own:
        DockerEngine(Path(own), os.path.basename(own)).start()
    sys.stdout.write(compose.build_image(host))
    ComposeNetwork(host, project_name(), str(CERTS)).up()


def engine_host() -> str:
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


def _engine_answers() -> bool:
    words = ["docker", "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0

"""The nodes of docker-compose.test.yml as hosts: what `tests.cluster.hosts` does with namespaces,
done with containers of swarmlet's own image.

    with composed(docker_host) as net:
        net["worker1"].crash()
        net.cut("worker2")

A node's API is reached through /proc/PID/root, so the engine has to be of this machine.
"""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.hosts import pids_in
from tests.daemon.harness import ApiError, Client, wait_for

ROOT = Path(__file__).parent.parent.parent
FILE = "docker-compose.test.yml"
SOCKET = "run/swarmlet/swarmlet.sock"
DATA = "var/lib/swarmlet"
ADDRESSES = {
    "manager1": "10.96.1.11",
    "manager2": "10.96.1.12",
    "manager3": "10.96.1.13",
    "worker1": "10.96.1.21",
    "worker2": "10.96.1.22",
}
FORMS_WITHIN_S = 90.0


def missing() -> str:
    """Why docker-compose cannot be used here, or ""."""
    if os.getuid() != 0:
        return "only root can look into containers"
    if shutil.which("docker") is None:
        return "docker is not installed (Debian package docker.io)"
    if not compose_command():
        return "docker-compose is not installed (Debian package docker-compose)"
    if shutil.which("debootstrap") is None:
        return "debootstrap is not installed (Debian package debootstrap)"
    return ""


@functools.cache
def compose_command() -> tuple[str, ...]:
    """How compose is called here: the program of 1.29, or docker's plugin; () for neither."""
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    plugin = ("docker", "compose")
    has_plugin = shutil.which("docker") and not _run([*plugin, "version"], check=False).returncode
    return plugin if has_plugin else ()


def build_image(docker_host: str) -> str:
    """Build swarmlet:test from this tree, by whatever is kept of earlier times; what it says."""
    environment = {**os.environ, "DOCKER_HOST": docker_host}
    return _run([f"{ROOT}/scripts/build-image"], environment=environment, limit_s=600).stdout


class Container:
    """One node. `start` and `stop` are its daemon's; `crash` ends the container, and then `start`
    is its next boot."""

    def __init__(self, net: "ComposeNetwork", name: str) -> None:
        self._net, self.name, self.address = net, name, ADDRESSES[name]
        self._pid = 0  # of its first process, or no process's

    @functools.cached_property
    def container(self) -> str:
        found = self._net.compose("ps", "-q", self.name).stdout.strip()
        assert found, f"there is no container of {self.name}"
        return found

    @property
    def socket(self) -> str:
        return f"{self._inside}/{SOCKET}"

    @property
    def data(self) -> str:
        return f"{self._inside}/{DATA}"

    @property
    def _inside(self) -> str:
        """The path of its root directory on this machine, which is there while it runs."""
        return f"/proc/{self._running_pid()}/root"

    def _running_pid(self) -> int:
        if not os.path.exists(f"/proc/{self._pid}/ns/net"):
            said = self._net.docker("inspect", "--format", "{{.State.Pid}}", self.container)
            self._pid = int(said.stdout)
        return self._pid

    def client(self) -> Client:
        return Client(self.socket)

    def answers(self) -> bool:
        try:
            Client(self.socket, 2.0).call("GET", "/_ping")
        except (OSError, ApiError):
            return False
        return True

    def swarmlet(
        self, *arguments: str, said: str = "", limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """The CLI, as a user of this node runs it, with `said` on its standard input."""
        return self.run("swarmlet", *arguments, said=said, limit_s=limit_s)

    def docker(
        self, *arguments: str, said: str = "", limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """The docker CLI against this node's daemon, with `said` on its standard input."""
        command = ["env", f"DOCKER_HOST=unix://{self.socket}", f"DOCKER_CONFIG={self._net.certs}"]
        return _run([*command, "docker", *arguments], said=said, limit_s=limit_s, check=False)

    def run(
        self, *command: str, said: str = "", limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        words = ("exec", "-i", self.container, *command)
        return self._net.docker(*words, said=said, limit_s=limit_s, check=False)

    def is_on(self) -> bool:
        """Whether the container runs, with or without a daemon."""
        said = self._net.docker("inspect", "--format", "{{.State.Running}}", self.container)
        return said.stdout.strip() == "true"

    def start(self) -> "Container":
        if self.is_on():
            self._order("release")
        else:
            self._net.docker("start", self.container)
        wait_for(self.answers, what=f"the daemon of {self.name}")
        return self

    def stop(self) -> int:
        """The daemon alone, in order: its tasks run on."""
        self._order("hold")
        return 0

    def kill(self) -> None:
        """The daemon alone, and no goodbye: its tasks run on."""
        self._order("hold", "now")

    def _order(self, *words: str) -> None:
        self._net.docker("exec", self.container, "swarm-node", *words)

    def crash(self) -> None:
        """The power fails."""
        self._net.docker("kill", self.container)

    def shutdown(self) -> None:
        """The host goes down in order, and says so."""
        self._net.docker("stop", self.container)

    def pids(self) -> list[int]:
        """Every process in it, by its number on this machine."""
        network = f"/proc/{self._running_pid()}/ns/net"
        return pids_in(network) if os.path.exists(network) else []

    def freeze(self) -> None:
        """All of it gets no time any more; `thaw` ends that."""
        self._net.docker("pause", self.container)

    def thaw(self) -> None:
        said = self._net.docker("inspect", "--format", "{{.State.Paused}}", self.container)
        if said.stdout.strip() == "true":
            self._net.docker("unpause", self.container)

    def log(self) -> str:
        said = self._net.docker("logs", self.container)
        return said.stdout + said.stderr


class ComposeNetwork:
    """The five nodes, by `project` on the engine at `docker_host`; what they hand to each other
    goes through the folder `certs`."""

    def __init__(self, docker_host: str, project: str, certs: str) -> None:
        self.docker_host, self.project, self.certs = docker_host, project, certs
        self.hosts = {name: Container(self, name) for name in ADDRESSES}
        self.said_after_up = ""  # by `swarmlet node ls` on manager1, at once

    def __getitem__(self, name: str) -> Container:
        return self.hosts[name]

    def up(self) -> None:
        """All of them, in one swarm."""
        self.compose("up", "-d", limit_s=300)
        command = ("exec", "-T", "manager1", "swarmlet", "node", "ls")
        self.said_after_up = self.compose(*command).stdout
        wait_for(self.is_whole, what="five nodes", limit_s=FORMS_WITHIN_S)

    def is_whole(self) -> bool:
        try:
            rows = self["manager1"].client().get("/nodes")
        except (OSError, ApiError):
            return False
        ready = [row for row in rows if row["Status"]["State"] == "ready"]
        reachable = [
            row for row in rows if row.get("ManagerStatus", {}).get("Reachability") == "reachable"
        ]
        return len(ready) == len(self.hosts) and len(reachable) == 3

    def down(self) -> None:
        self.compose("down", "-v", "--remove-orphans", "-t", "0", limit_s=120)

    def cut(self, *names: str) -> None:
        """Each of these nodes is off the control network, and alone."""
        for name in names:
            self.docker("network", "disconnect", self._control, self[name].container)

    def heal(self) -> None:
        """Whoever cut what."""
        ids = [host.container for host in self.hosts.values()]
        for host, found in zip(
            self.hosts.values(), json.loads(self.docker("inspect", *ids).stdout), strict=True
        ):
            if self._control not in found["NetworkSettings"]["Networks"]:
                words = ("--ip", host.address, "--alias", host.name, self._control)
                self.docker("network", "connect", *words, host.container)

    @property
    def _control(self) -> str:
        return f"{self.project}_control"

    def docker(
        self, *words: str, said: str = "", limit_s: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """The docker CLI against the engine that runs the nodes."""
        environment = {**os.environ, "DOCKER_HOST": self.docker_host}
        command = ["docker", *words]
        return _run(command, environment=environment, said=said, limit_s=limit_s, check=check)

    def compose(
        self, *words: str, limit_s: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        command = [*compose_command(), "-f", f"{ROOT}/{FILE}", *words]
        return _run(command, environment=self.environment(), limit_s=limit_s, check=check)

    def environment(self) -> dict[str, str]:
        """In which docker-compose means these nodes."""
        return {
            **os.environ,
            "DOCKER_HOST": self.docker_host,
            "COMPOSE_PROJECT_NAME": self.project,
            "SWARMLET_CERTS": self.certs,
        }


def _run(
    command: list[str],
    *,
    environment: dict[str, str] | None = None,
    said: str = "",
    limit_s: float = 60.0,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Raises RuntimeError, with what it said, for a command that fails and must not."""
    done = subprocess.run(
        command,
        env=environment,
        input=said,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@contextlib.contextmanager
def composed(docker_host: str, project: str = "") -> Iterator[ComposeNetwork]:
    """The five nodes, in one swarm, gone at the end with their volumes and networks."""
    certs = tempfile.mkdtemp(prefix="swc-", dir="/tmp")
    net = ComposeNetwork(docker_host, project or os.path.basename(certs), certs)
    try:
        net.up()
        yield net
    finally:
        net.down()
        shutil.rmtree(certs, ignore_errors=True)

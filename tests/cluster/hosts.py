"""Hosts for tests: each with its own network, addresses, name, data directory and clock. They know
each other by name, as m1 and m1.test.

    with network("m1", "w1", "w2") as net:
        net["m1"].start().init()
        net.cut("w1", "m1")
        net["w2"].clock_offset_s = 3 * 3600

What runs in a host are the program's real daemons; `kill` and `start` are a crash and a boot.
"""

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.daemon.harness import ApiError, Client, Daemon, clean_up

SUBNET = "10.97.0"
SUBNET6 = "fd97::"
CLONE_NEWNET = 0x40000000  # linux/sched.h
FAKETIME = "faketime/libfaketimeMT.so.1"
_NUMBERS = itertools.count()  # several networks of one process may have hosts of one name
NAMED = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


def missing() -> str:
    """Why there can be no hosts here, or ""."""
    if os.getuid() != 0:
        return "only root can make network namespaces"
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package {package})"
    if not os.path.exists("/dev/net/tun"):
        return "this kernel has no /dev/net/tun"
    return ""


def faketime() -> str:
    """The library that gives a process another clock, or "" where it is not installed."""
    found = sorted(Path("/usr/lib").glob(f"*/{FAKETIME}"))
    return str(found[0]) if found else ""


def enter(namespace: int) -> None:
    """This thread is in that network namespace from now on."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def pids_in(network: str) -> list[int]:
    """Every process of this machine that is in the network namespace at that path."""
    wanted, found = os.stat(network), []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():  # a thread of ours may be there
            with contextlib.suppress(OSError):  # it ended meanwhile
                if os.path.samestat(os.stat(f"/proc/{name}/ns/net"), wanted):
                    found.append(int(name))
    return found


class Host(Daemon):
    """A daemon on a host of its own. `clock_offset_s` counts from the next start on."""

    def __init__(self, directory: str, namespace: str, number: int, *options: str) -> None:
        super().__init__(directory, *options)
        self.name, self.namespace = os.path.basename(directory), namespace
        self.address, self.address6 = f"{SUBNET}.{number}", f"{SUBNET6}{number:x}"
        self.hosts_path = f"{directory}/hosts"  # what is /etc/hosts to its daemon
        self.clock_offset_s = 0.0
        self.variables: dict[str, str] = {}

    def make(self) -> None:
        """Give it its network, which has no cable yet."""
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        subprocess.run(self.inside("ip", "link", "set", "lo", "up"), check=True)

    def inside(self, *command: str) -> list[str]:
        """The command that runs `command` on this host."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *command]

    @contextlib.contextmanager
    def network_of_this_thread(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are on this host, and stay there."""
        with open("/proc/thread-self/ns/net") as home:
            try:
                with open(f"/run/netns/{self.namespace}") as here:
                    enter(here.fileno())
                yield
            finally:
                enter(home.fileno())

    def environment(self) -> list[str]:
        """What `env` is to set for the host's clock and for `variables`."""
        variables = dict(self.variables)
        if self.clock_offset_s:
            assert faketime(), "libfaketime is not installed"
            variables["LD_PRELOAD"] = faketime()
            variables["FAKETIME"] = f"{self.clock_offset_s:+.0f}s"
            variables["FAKETIME_DONT_FAKE_MONOTONIC"] = "1"
        return [f"{name}={value}" for name, value in variables.items()]

    def command(self) -> list[str]:
        named = ["unshare", "--uts", "--mount", "sh", "-c", NAMED, "sh", self.name, self.hosts_path]
        return self.inside(*named, "env", *self.environment(), *super().command())

    def swarmlet(
        self, *arguments: str, said: str = "", limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """The CLI, as a user of this host runs it, with `said` on its standard input."""
        command = (sys.executable, "-m", "swarmlet", "--host", f"unix://{self.socket}")
        return self.run(*command, *arguments, said=said, limit_s=limit_s)

    def docker(
        self, *arguments: str, said: str = "", limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """The docker CLI against this host's daemon, with `said` on its standard input."""
        command = ("env", f"DOCKER_HOST=unix://{self.socket}", f"DOCKER_CONFIG={self.directory}")
        return self.run(*command, "docker", *arguments, said=said, limit_s=limit_s)

    def run(
        self, *command: str, said: str = "", limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside("env", *self.environment(), *command),
            input=said,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def pids(self) -> list[int]:
        """Every process on this host."""
        return pids_in(f"/run/netns/{self.namespace}")

    def crash(self) -> None:
        """The power fails: all that ran on it is dead. `start` is its next boot."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.process is not None:
                self.process.wait()
            time.sleep(0.005)

    def shutdown(self) -> None:
        """The host goes down in order, and says so. `start` is its next boot."""
        said = self.swarmlet("daemon", "stop", "--host-stopping")
        assert said.returncode == 0, said.stderr
        self.crash()

    def freeze(self) -> None:
        """Its daemon gets no time any more, as on a machine that is starved; `thaw` ends that."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

    def give_disk(self, size: str) -> None:
        """The data directory gets a small file system of its own, which can be filled."""
        os.mkdir(self.data, 0o700)
        options = ["-o", f"size={size},mode=700"]
        subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", self.data], check=True)

    def fill_disk(self) -> None:
        """Nothing is left of it; `free_disk` ends that."""
        with contextlib.suppress(OSError), open(self._ballast, "ab", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

    def free_disk(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._ballast)

    def take_disk(self) -> None:
        if os.path.ismount(self.data):
            subprocess.run(["umount", "--lazy", self.data], check=False)

    @property
    def _ballast(self) -> str:
        return f"{self.data}/lost+found"  # a name that a data directory may hold

    def init(self) -> Client:
        client = self.client()
        client.post("/swarm/init", {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": self.address})
        return client

    def join(self, manager: "Host", role: str = "Worker", token: str = "") -> Client:
        """Join the manager's swarm through the API, as docker does."""
        token = token or manager.client().get("/swarm")["JoinTokens"][role]
        client = self.client()
        body = {
            "ListenAddr": "0.0.0.0:2377",
            "AdvertiseAddr": self.address,
            "RemoteAddrs": [f"{manager.address}:2377"],
            "JoinToken": token,
        }
        client.post("/swarm/join", body)
        return client


class Network:
    """Hosts on one switch, all of which see each other until told otherwise. `stem` is how the
    names of their namespaces begin; no two networks of a machine share it."""

    def __init__(
        self, directory: str, names: tuple[str, ...], options: tuple[str, ...] = (), stem: str = ""
    ) -> None:
        stem = stem or f"swt-{os.getpid()}-{next(_NUMBERS)}"
        self.hosts = {
            name: Host(f"{directory}/{name}", f"{stem}-{name}", number, *options)
            for number, name in enumerate(names, start=1)
        }
        self._switch: subprocess.Popen[str] | None = None
        self._orders: IO[str] | None = None  # to the switch
        self._answers: IO[str] | None = None

    def make(self) -> None:
        """The hosts' folders and networks, and what each knows of the others."""
        known = [f"{host.address} {host.name} {host.name}.test" for host in self.hosts.values()]
        for host in self.hosts.values():
            os.mkdir(host.directory, 0o755)
            host.make()
            Path(host.hosts_path).write_text("\n".join(("127.0.0.1 localhost", *known, "")))

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def switch_command(self) -> list[str]:
        ports = [
            f"{host.namespace}={host.address}/24,{host.address6}/64" for host in self.hosts.values()
        ]
        return [sys.executable, "-m", "tests.cluster.switch", *ports]

    def plug_in(self) -> None:
        self._switch = subprocess.Popen(
            self.switch_command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._orders, self._answers = self._switch.stdin, self._switch.stdout
        self._hear("ready")

    def cut(self, *names: str) -> None:
        """Nothing goes between these hosts and all others, either way."""
        for name in names:
            for other in self.hosts:
                if other not in names:
                    self.cut_one_way(name, other)
                    self.cut_one_way(other, name)

    def cut_one_way(self, source: str, target: str) -> None:
        self._order(f"cut {self[source].namespace} {self[target].namespace}")

    def lose(self, percent: float) -> None:
        self._order(f"loss {percent}")

    def delay(self, delay_ms: float) -> None:
        """Of every frame, each way."""
        self._order(f"delay {delay_ms}")

    def heal(self) -> None:
        self._order("heal")

    def close(self) -> None:
        self.heal_quietly()
        for host in reversed(self.hosts.values()):
            host.thaw()
            host.free_disk()
        for host in reversed(self.hosts.values()):
            with contextlib.suppress(ApiError, OSError):
                clean_up(host)
            host.take_disk()
        if self._switch is not None:
            self._switch.communicate(timeout=10)
        for host in self.hosts.values():
            subprocess.run(["ip", "netns", "delete", host.namespace], check=False)

    def heal_quietly(self) -> None:
        """Whatever became of the switch."""
        with contextlib.suppress(OSError, AssertionError):
            self.heal()

    def _order(self, line: str) -> None:
        assert self._orders is not None
        self._orders.write(f"{line}\n")
        self._orders.flush()
        self._hear("ok")

    def _hear(self, word: str) -> None:
        assert self._answers is not None
        heard = self._answers.readline().strip()
        assert heard == word, f"the switch says {heard!r}, not {word!r}"


@contextlib.contextmanager
def network(*names: str, options: tuple[str, ...] = (), disk: str = "") -> Iterator[Network]:
    """Hosts of these names, gone with all that ran on them at the end. `disk`: the size of each
    one's own, as mount takes it (64m); "" for the machine's."""
    directory = tempfile.mkdtemp(prefix="swn-", dir="/tmp")
    os.chmod(directory, 0o755)
    net = Network(directory, names, options)
    try:
        net.make()
        if disk:
            for host in net.hosts.values():
                host.give_disk(disk)
        net.plug_in()
        yield net
    finally:
        net.close()
        shutil.rmtree(directory, ignore_errors=True)

"""Probe of the ports a swarm listens on: whether each is free, and who has it."""

import errno
import os
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from swarmlet.core.limits import VXLAN_PORT
from swarmlet.doctor.finding import Judgement, Probe, fail, ok, warn
from swarmlet.doctor.world import World, bind_problem, read

GOSSIP_PORT: Final = 7946  # Docker Swarm's, between nodes
_LISTEN: Final = "0A"  # TCP_LISTEN, of the kernel's net/tcp_states.h


class Port(msgspec.Struct, frozen=True, kw_only=True):
    kind: str  # tcp or udp
    number: int
    problem: int  # an errno; 0 where it is free
    holders: tuple[tuple[int, str], ...] = ()  # (process, its name); none where it is not known


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    is_root: bool
    daemon_pid: int
    daemon_port: int = 0
    listen_host: str
    listen_port: int
    ports: tuple[Port, ...]


def look_at_ports(world: World) -> Ports:
    asked = (
        ("tcp", world.listen_port),
        ("tcp", GOSSIP_PORT),
        ("udp", GOSSIP_PORT),
        ("udp", VXLAN_PORT),
    )
    return Ports(
        is_root=world.is_root,
        daemon_pid=world.daemon_pid,
        daemon_port=world.daemon_port,
        listen_host=world.listen_host,
        listen_port=world.listen_port,
        ports=tuple(_look(kind, world.listen_host, number) for kind, number in asked),
    )


def _look(kind: str, host: str, number: int) -> Port:
    problem = bind_problem(kind, host, number)
    holders = tuple(_holders(kind, number)) if problem == errno.EADDRINUSE else ()
    return Port(kind=kind, number=number, problem=problem, holders=holders)


def _holders(kind: str, number: int) -> list[tuple[int, str]]:
    inodes: set[str] = set()
    for table in (f"/proc/net/{kind}", f"/proc/net/{kind}6"):
        inodes |= sockets_at(read(table) or "", number, is_tcp=kind == "tcp")
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return [(pid, read(f"/proc/{pid}/comm") or "?") for pid in pids if inodes & _sockets_of(pid)]


def sockets_at(table: str, number: int, *, is_tcp: bool) -> set[str]:
    """Inodes of the sockets that wait at a port, of proc(5)'s net/tcp and its like."""
    wanted = f":{number:04X}"
    rows = (line.split() for line in table.splitlines()[1:])
    return {row[9] for row in rows if row[1].endswith(wanted) and (row[3] == _LISTEN or not is_tcp)}


def _sockets_of(pid: int) -> set[str]:
    """Inodes of a process's sockets; of another user's process none."""
    folder = f"/proc/{pid}/fd"
    found = set()
    try:
        for name in os.listdir(folder):
            target = os.readlink(f"{folder}/{name}")
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
    except OSError:  # not ours, or it ended at this very moment
        return found
    return found


def judge_ports(facts: Ports) -> Judgement:
    taken = [port for port in facts.ports if port.problem and not _is_own(port, facts)]
    listed = ", ".join(f"{port.number}/{port.kind}" for port in facts.ports)
    own = [port for port in facts.ports if port.problem and _is_own(port, facts)]
    if not taken:
        has = f" (swarmlet's own daemon has {_names(own)})" if own else ""
        return ok(f"Free: {listed}{has}." if not own else f"Nobody else has {listed}{has}.")
    found = f"{'; '.join(_sentence(port, facts) for port in taken)}."
    first = taken[0]
    remedy = _remedy(first, facts)
    if first.number == facts.listen_port and first.kind == "tcp":
        return fail(found, remedy)
    return warn(found, remedy)


def _is_own(port: Port, facts: Ports) -> bool:
    """An ordinary user does not see who has it, but hears it from the daemon."""
    if port.kind == "tcp" and port.number == facts.daemon_port and not port.holders:
        return True
    return bool(facts.daemon_pid) and facts.daemon_pid in (pid for pid, _ in port.holders)


def _names(ports: Iterable[Port]) -> str:
    return ", ".join(f"{port.number}/{port.kind}" for port in ports)


def _sentence(port: Port, facts: Ports) -> str:
    name = f"{port.number}/{port.kind}"
    if port.problem != errno.EADDRINUSE:
        return f"{facts.listen_host} port {name} cannot be used: {os.strerror(port.problem)}"
    if port.holders:
        return f"{name} is taken by {_processes(port.holders)}"
    if facts.is_root:
        return f"{name} is taken by the kernel, or from outside this namespace"
    return f"{name} is taken by a process of another user"


def _processes(holders: Sequence[tuple[int, str]]) -> str:
    return ", ".join(f"{name} (process {pid})" for pid, name in holders)


def _remedy(port: Port, facts: Ports) -> str:
    if port.problem == errno.EADDRNOTAVAIL:
        return "ip address, and --listen-addr with an address of this host"
    if any(name == "dockerd" for _, name in port.holders):
        return "docker swarm leave: Docker's own swarm mode uses the same ports"
    if port.number == facts.listen_port:
        return f"swarmlet init --listen-addr {facts.listen_host}:{facts.listen_port + 1}"
    if port.kind == "udp" and port.number == VXLAN_PORT:
        return "ip -d link show type vxlan, or swarmlet init --data-path-port 4790"
    return f"ss -lnp '( sport = :{port.number} )'"


PROBES: Final = (
    Probe(
        name="ports",
        matters_for="managers, and traffic between nodes",
        look=look_at_ports,
        judge=judge_ports,
    ),
)

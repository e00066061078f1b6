"""Host-mode ports of a task: given ones are tried, free ones are found, and both are told.

Nothing reserves a port between the try and the task's own bind but this runtime's memory of which
task has which, so free ones are taken where the kernel takes none for outgoing connections.
"""

import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swarmlet.model.service import PortConfig
from swarmlet.runtime.base import RuntimeProblemError, TemporaryProblemError

FREE_MIN: Final = 20_000  # below the ingress ports (30000-32767) and the kernel's own (32768 on)
FREE_MAX: Final = 29_999
_KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_ANY: Final = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))  # noqa: S104 - where tasks listen
_LISTEN: Final = "0A"  # a socket's state in /proc/net/tcp; udp sockets have none


@dataclass(frozen=True, slots=True)
class Port:
    """One host-mode port: `published` 0 asks for one."""

    protocol: str
    target: int
    published: int

    def config(self) -> PortConfig:
        return PortConfig(
            protocol=self.protocol,
            target_port=self.target,
            published_port=self.published,
            publish_mode="host",
        )


def check_protocols(ports: Sequence[Port]) -> None:
    for port in ports:
        if port.protocol not in _KINDS:
            raise RuntimeProblemError(
                f"The process runtime publishes tcp and udp ports, not {port.protocol}.",
                remedy="Use tcp or udp.",
            )


def choose_ports(
    wanted: Sequence[Port], taken: Mapping[tuple[str, int], str], randrange: Callable[[int], int]
) -> tuple[Port, ...]:
    """Every port with its number. `taken`: (protocol, port) of this node's other tasks, and whose.

    Raises TemporaryProblemError where another task has it, which may be ending; RuntimeProblemError
    where some other process has it.
    """
    mine: set[tuple[str, int]] = set()
    chosen = []
    for port in wanted:
        number = port.published
        if number:
            _try_given(port, taken)
        else:
            number = _find_free(port.protocol, {*taken, *mine}, randrange)
        mine.add((port.protocol, number))
        chosen.append(Port(port.protocol, port.target, number))
    return tuple(chosen)


def _try_given(port: Port, taken: Mapping[tuple[str, int], str]) -> None:
    what = f"Port {port.published}/{port.protocol}"
    holder = taken.get((port.protocol, port.published))
    if holder is not None:
        raise TemporaryProblemError(
            f"{what} is already in use on this node by task {holder}.",
            remedy="It is tried again until that task has ended.",
        )
    problem = _bind_problem(port.protocol, port.published)
    if problem == errno.EADDRINUSE:
        raise RuntimeProblemError(
            f"{what} is already in use on this node by {_holder(port)}.",
            remedy="Publish another port, or 0 to be given a free one (the task finds it in PORT).",
        )
    if problem and problem != errno.EACCES:  # EACCES: judged by the task's account, not by ours
        raise RuntimeProblemError(f"{what} cannot be opened: {os.strerror(problem)}.")


def _find_free(protocol: str, taken: set[tuple[str, int]], randrange: Callable[[int], int]) -> int:
    count = FREE_MAX - FREE_MIN + 1
    start = randrange(count)
    for step in range(count):
        number = FREE_MIN + (start + step) % count
        if (protocol, number) not in taken and not _bind_problem(protocol, number):
            return number
    raise RuntimeProblemError(
        f"No {protocol} port from {FREE_MIN} to {FREE_MAX} is free on this node.",
        remedy="Publish a port of your choice.",
    )


def _bind_problem(protocol: str, number: int) -> int:
    """The errno of binding it on all addresses of either family, 0 where that works."""
    for family, address in _ANY:
        try:
            with socket.socket(family, _KINDS[protocol]) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if protocol == "tcp":  # a closed connection's remains are no owner
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, number))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # a host without IPv6
                return error.errno or errno.EIO
    return 0


def _holder(port: Port) -> str:
    """The process that has it, as far as we may see."""
    inodes = {
        fields[9]
        for table in (port.protocol, port.protocol + "6")
        for fields in _sockets(table)
        if int(fields[1].rpartition(":")[2], 16) == port.published
        and (port.protocol == "udp" or fields[3] == _LISTEN)
    }
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if any(os.readlink(fd) in wanted for fd in (folder / "fd").iterdir()):
                return f"{(folder / 'comm').read_text().strip()} (pid {folder.name})"
        except OSError:  # it ended, or belongs to somebody else
            continue
    return "another process"


def _sockets(table: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    except OSError:  # a host without IPv6
        return []

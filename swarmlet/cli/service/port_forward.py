"""`swarmlet service port-forward`: ports of this host that lead to a task's, on whatever node."""

import errno
import select
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

import click

from swarmlet.cli.client import Client, Upgraded, quote
from swarmlet.cli.errors import ApiError, CommandError
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service
from swarmlet.cli.service.target import Target, find_target, shown
from swarmlet.core.errors import SwarmError
from swarmlet.core.framing import END, EXIT, INPUT, PROBLEM, STDOUT

CONNECTIONS_MAX: Final = 64  # at a time; others wait in the kernel's queue
READ_SIZE_B: Final = 32_768
PORT_MAX: Final = 65_535
_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: a close that tells of a failure


class Way(NamedTuple):
    """From a port of this host to one of the task's."""

    local: int
    port: int


@click.command(
    "port-forward",
    epilog=example(
        "swarmlet service port-forward web 8080:80",
        "swarmlet service port-forward --address 10.0.0.5 db.1 5432 0:9187",
    ),
)
@click.argument("name", metavar="SERVICE[.SLOT]|TASK", shell_complete=complete_service)
@click.argument("ports", metavar="[LOCAL:]PORT...", nargs=-1, required=True)
@click.option(
    "--address", default="127.0.0.1", show_default=True, metavar="IP", help="Where to listen."
)
@click.pass_obj
def port_forward(client: Client, /, *, name: str, ports: tuple[str, ...], address: str) -> None:
    """Connect ports of this host with TCP ports of a task, until Ctrl-C.

    Only ports that its service declares can be reached. LOCAL 0 takes a free port.
    """
    ways = [_way(text) for text in ports]
    target = find_target(client, name)
    _check_declared(client, target, ways)
    there = shown(client, target)
    forward = _Forward(client.named, name, target)
    with ExitStack() as stack:
        listeners = {}
        for way in ways:
            listener = stack.enter_context(_listen(address, way))
            listeners[listener] = way.port
            host, local = listener.getsockname()[:2]
            here = f"[{host}]:{local}" if ":" in host else f"{host}:{local}"
            click.echo(f"Forwarding {here} to port {way.port} of {there}", err=True)
        forward.run(listeners)


def _way(text: str) -> Way:
    local, colon, port = text.rpartition(":")
    numbers = (local or "0") if colon else port, port
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise click.UsageError(f"Invalid value {text!r}: write PORT or LOCAL:PORT.")
    way = Way(*map(int, numbers))
    if not (way.local <= PORT_MAX and 0 < way.port <= PORT_MAX):
        raise click.UsageError(f"Invalid value {text!r}: ports are from 1 to {PORT_MAX}.")
    return way


def _check_declared(client: Client, target: Target, ways: list[Way]) -> None:
    """Said before anybody connects; whether each connection may be is the managers' to say."""
    service = client.get(f"/services/{quote(target.service_id)}")
    listed = (service["Spec"].get("EndpointSpec") or {}).get("Ports") or []
    ports = {port.get("TargetPort") for port in listed if port.get("Protocol", "tcp") == "tcp"}
    for way in ways:
        if way.port not in ports:
            name = service["Spec"]["Name"]
            shown_ports = ", ".join(map(str, sorted(ports))) or "none"
            raise CommandError(
                f"Service {name} does not declare port {way.port}; its TCP ports: {shown_ports}.",
                f"`swarmlet service update --publish-add mode=host,target={way.port} {name}` "
                "declares it.",
            )


def _listen(address: str, way: Way) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, way.local))
        listener.listen(CONNECTIONS_MAX)
    except OSError as error:
        listener.close()
        is_elsewhere = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        raise CommandError(
            f"{address}:{way.local} cannot be listened on: {error.strerror or error}.",
            "an --address of this host"
            if is_elsewhere
            else f"another local port, or any: 0:{way.port}",
        ) from None
    return listener


class _Forward:
    """Accepts and carries; each connection has two threads, one a direction."""

    def __init__(self, host: str, ref: str, target: Target) -> None:
        self._host, self._ref, self._target = host, ref, target
        self._places = threading.Semaphore(CONNECTIONS_MAX)

    def run(self, listeners: dict[socket.socket, int]) -> None:
        """Until interrupted."""
        poll = select.poll()
        by_number = {listener.fileno(): listener for listener in listeners}
        for listener in listeners:
            listener.setblocking(False)
            poll.register(listener, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                self._places.acquire()
                listener = by_number[number]
                try:
                    connection, _ = listener.accept()
                except OSError:  # it left before it was let in
                    self._places.release()
                    continue
                connection.setblocking(True)
                arguments = (connection, listeners[listener])
                threading.Thread(target=self._serve, args=arguments, daemon=True).start()

    def _serve(self, connection: socket.socket, port: int) -> None:
        try:
            stream = self._opened(port)
        except (SwarmError, OSError) as problem:
            _say(problem)
            _reset(connection)
        else:
            try:
                _carry(connection, stream)
            finally:
                stream.close()
        finally:
            connection.close()
            self._places.release()

    def _opened(self, port: int) -> Upgraded:
        """Into the task, or where that runs no more into the one that has its place now."""
        client = Client(self._host)
        try:
            return _open(client, self._target, port)
        except ApiError as refusal:
            now = find_target(client, self._ref)
            if now.task_id == self._target.task_id:
                raise
            there = shown(client, now)
            click.echo(f"Note: {refusal.message} Going on with {there}.", err=True)
            self._target = now
            return _open(client, now, port)
        finally:
            client.close()


def _open(client: Client, target: Target, port: int) -> Upgraded:
    return client.upgrade(f"/swarmlet/v1/tasks/{quote(target.task_id)}/forward", port=str(port))


def _carry(connection: socket.socket, stream: Upgraded) -> None:
    """Both ways, until both sides have ended or one is gone."""
    sender = threading.Thread(target=_send_on, args=(connection, stream), daemon=True)
    sender.start()
    is_over = False
    try:
        for kind, payload in stream.frames():
            if kind == STDOUT:
                connection.sendall(payload)
            elif kind == END:
                connection.shutdown(socket.SHUT_WR)
            elif kind == PROBLEM:
                click.echo(f"Error: {payload.decode('utf-8', 'replace')}", err=True)
                break
            is_over = is_over or kind == EXIT
    except OSError:
        is_over = True  # the program here is gone
    if not is_over:
        _reset(connection)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    stream.interrupt()
    sender.join()


def _send_on(connection: socket.socket, stream: Upgraded) -> None:
    try:
        while data := connection.recv(READ_SIZE_B):
            if not stream.send(INPUT, data):
                return
    except OSError:
        stream.interrupt()
    else:
        stream.send(END)


def _reset(connection: socket.socket) -> None:
    """Let its other side see that this is no end in order."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _say(problem: Exception) -> None:
    click.echo(f"Error: {getattr(problem, 'message', problem)}", err=True)
    remedy = getattr(problem, "remedy", "")
    if remedy:
        click.echo(f"  Try: {remedy}", err=True)

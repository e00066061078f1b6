"""`swarmlet service exec`: a program beside a task, on whatever node that is."""

import os
import select
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final, TypeVar

import click

from swarmlet.cli.client import Client, Json, Upgraded, quote
from swarmlet.cli.errors import EXIT_ERROR, CommandError
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service, complete_task
from swarmlet.cli.service.target import Target, find_target
from swarmlet.cli.terminal import descriptor_of, raw_mode, size_of, told_of_sizes
from swarmlet.core.framing import END, EXIT, INPUT, PROBLEM, RESIZE, STDERR, STDOUT

_Command = TypeVar("_Command", bound=Callable[..., object])

READ_SIZE_B: Final = 32_768
EXIT_BROKEN_PIPE: Final = 141  # as if SIGPIPE had ended it


class ExecFailedError(CommandError):
    """The program was not run, or nobody knows how it ended."""

    code = "exec-failed"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # of this one alone


_FLAGS: Final = (
    click.argument("command", metavar="COMMAND...", nargs=-1, type=click.UNPROCESSED),
    click.option("-i", "--interactive", is_flag=True, help="Pass the standard input on."),
    click.option("-t", "--tty", is_flag=True, help="Run it in a terminal."),
    click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="For its environment."),
    click.option("-u", "--user", default="", metavar="NAME|UID[:GROUP|GID]", help="Its account."),
    click.option("-w", "--workdir", default="", metavar="DIR", help="Where to run it."),
)


def _flags(command: _Command) -> _Command:
    """Those of every command that runs one, in the order of help."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


_SETTINGS: Final = {"allow_interspersed_args": False}  # what follows the task is the command's


@click.command(
    "exec",
    context_settings=_SETTINGS,
    epilog=example(
        "swarmlet service exec -it web sh",
        "swarmlet service exec -i web.2 -- tar x -C /srv < site.tar",
    ),
)
@click.argument("name", metavar="SERVICE[.SLOT]|TASK", shell_complete=complete_service)
@_flags
@click.pass_obj
def exec_(client: Client, /, *, name: str, **options: Json) -> int:
    """Run a command beside a task, as the task sees the world.

    In the task of the lowest slot unless one is named. Its exit code is this command's.
    """
    return _run(client, find_target(client, name), options)


@click.command(
    "exec",
    context_settings=_SETTINGS,
    epilog=example("swarmlet task exec -it oh46iz5ujgo1 sh"),
)
@click.argument("name", metavar="TASK", shell_complete=complete_task)
@_flags
@click.pass_obj
def task_exec(client: Client, /, *, name: str, **options: Json) -> int:
    """Run a command beside a task, as the task sees the world. Its exit code is this command's."""
    return _run(client, find_target(client, name), options)


def _run(client: Client, target: Target, options: Mapping[str, Json]) -> int:
    command = options["command"]
    argv = list(command[1:] if command[:1] == ("--",) else command)
    if not argv:
        raise click.UsageError("Missing argument 'COMMAND...'.")
    stdin, stdout = descriptor_of(sys.stdin), descriptor_of(sys.stdout)
    is_typed, is_tty = bool(options["interactive"]) and stdin >= 0, bool(options["tty"])
    if is_typed and is_tty and not os.isatty(stdin):
        raise CommandError("The input is no terminal.", "the same without --tty (-t)")
    body = {
        "Cmd": argv,
        "Env": _environment(options["env"]),
        "User": options["user"],
        "WorkingDir": options["workdir"],
        "Tty": is_tty,
        "AttachStdin": is_typed,
        "ConsoleSize": size_of(stdin, stdout) if is_tty else [],
    }
    stream = client.upgrade(f"/swarmlet/v1/tasks/{quote(target.task_id)}/exec", body)
    with ExitStack() as stack:
        stack.callback(stream.close)
        sizes = stack.enter_context(told_of_sizes()) if is_tty else -1
        if is_typed and is_tty:
            stack.enter_context(raw_mode(stdin))
        sender = threading.Thread(
            target=_type_in, args=(stream, stdin if is_typed else -1, sizes), daemon=True
        )
        sender.start()
        return _print(stream)


def _environment(given: tuple[str, ...]) -> list[str]:
    """KEY takes this command's own value, and is left out where it has none."""
    found = [
        entry if "=" in entry else f"{entry}={os.environ[entry]}"
        for entry in given
        if "=" in entry or entry in os.environ
    ]
    for entry in found:
        if entry.startswith("="):
            raise click.UsageError(f"Invalid value for --env: {entry!r} has no name.")
    return found


def _type_in(stream: Upgraded, stdin: int, sizes: int) -> None:
    """What is typed or piped in, and the terminal's sizes, until the stream ends. -1: none."""
    poll = select.poll()
    for descriptor in (stdin, sizes):
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    is_open = stdin >= 0
    try:
        while is_open or sizes >= 0:
            for descriptor, _ in poll.poll():
                data = os.read(descriptor, READ_SIZE_B)
                if descriptor == sizes:
                    rows, columns = size_of(*((stdin,) if stdin >= 0 else ()), 1) or (0, 0)
                    data = f"{rows} {columns}".encode()
                kind = RESIZE if descriptor == sizes else INPUT if data else END
                if not stream.send(kind, data):
                    return
                if kind == END:
                    poll.unregister(descriptor)
                    is_open = False
    except OSError:  # the terminal is gone, or this command is on its way out
        stream.send(END)


def _print(stream: Upgraded) -> int:
    """Raises CommandError where the program did not run to its end."""
    problem, is_read = "", True
    for kind, payload in stream.frames():
        if kind == STDOUT:
            is_read = _write(1, payload)
        elif kind == STDERR:
            is_read = _write(2, payload)
        elif kind == PROBLEM:
            problem = payload.decode("utf-8", "replace")
        elif kind == EXIT:
            exit_code = int(payload)
            if problem:
                raise ExecFailedError(problem, exit_code or EXIT_ERROR)
            return exit_code
        if not is_read:
            return EXIT_BROKEN_PIPE
    raise ExecFailedError(
        problem
        or "The connection to the daemon broke off; whether the command ended is not known.",
        EXIT_ERROR,
    )


def _write(descriptor: int, content: bytes) -> bool:
    """False where nobody reads it any more, as behind `| head`."""
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except BrokenPipeError:
        return False
    return True

"""`swarmlet daemon install` and `uninstall`: the daemon as a service of systemd."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import click

from swarmlet.cli.client import Client
from swarmlet.cli.errors import CommandError
from swarmlet.cli.lazy import example
from swarmlet.cli.programs import Ran, run_program
from swarmlet.cli.unit import (
    FIRST_LINE,
    UNIT_FILE,
    UnitOptions,
    daemon_arguments,
    exec_start,
    unit_text,
)
from swarmlet.core.paths import default_data_dir, default_host, socket_path
from swarmlet.core.service import SERVICE

ROOT_UNIT_DIR: Final = "/etc/systemd/system"
SYSTEMD_IS_HERE: Final = "/run/systemd/system"  # sd_booted(3)
CHECK_TIMEOUT_S: Final = 30.0
SYSTEMCTL_TIMEOUT_S: Final = 700.0  # a start may take the unit's TimeoutStartSec
FILE_LENGTH_MAX_B: Final = 262_144


class Place(NamedTuple):
    """Where the unit is, and whose systemd reads it there."""

    path: str
    is_user: bool
    is_usual: bool  # systemd looks here

    def systemctl(self, *arguments: str) -> list[str]:
        return ["systemctl", *(["--user"] if self.is_user else []), *arguments]


unit_file_option = click.option(
    "--unit-file", default="", metavar="FILE", help="The unit's file; systemd's own place if unset."
)


@click.command(
    epilog=example(
        "swarmlet daemon install --print",
        "sudo swarmlet daemon install --now",
        "swarmlet daemon install --data-dir /srv/swarmlet --log-format json",
    )
)
@click.option("--print", "prints", is_flag=True, help="Print the unit and write nothing.")
@click.option("--now", "starts", is_flag=True, help="Start it too, now and at every boot.")
@click.option("--force", is_flag=True, help="Overwrite a unit that differs.")
@click.option("--data-dir", default="", metavar="DIR", help="Where the node keeps its data.")
@click.option("--host", default="", metavar="URL", help="Where to listen: unix:///path/to.sock")
@click.option("--runtime", default="", metavar="NAME", help="What runs the tasks.")
@click.option("--docker-host", default="", metavar="URL", help="The Docker Engine to use.")
@click.option("--log-level", default="", metavar="LEVEL", help="The least important events to log.")
@click.option("--log-format", default="", metavar="FORMAT", help="text or json.")
@click.option("--allow-root-tasks", is_flag=True, help="Let services run processes as root.")
@click.option(
    "--node-generic-resource",
    multiple=True,
    metavar="KIND=N|KIND=NAME",
    help="What this node has for tasks to reserve.",
)
@unit_file_option
@click.pass_obj
def install(
    client: Client, /, *, node_generic_resource: tuple[str, ...], **chosen: str | bool
) -> None:
    """Make the daemon a service that survives reboots, as a unit of systemd.

    As root for the host, otherwise for your own systemd. An unchanged unit is left alone, a
    different one shown and refused. Options of the daemon are written into the unit.
    """
    pieces = [f"--node-generic-resource={text}" for text in node_generic_resource]
    options, place = _options(client, chosen, pieces), _place(str(chosen["unit_file"]))
    if chosen["starts"] and (chosen["prints"] or not place.is_usual):
        raise click.UsageError("--now goes neither with --print nor with --unit-file.")
    _check(options)
    text = unit_text(options)
    if chosen["prints"]:
        click.echo(text, nl=False)
        return
    changed = _put(place.path, text, force=bool(chosen["force"]))
    click.echo(f"{place.path} {'is written' if changed else 'is as it should be'}.")
    for note in _notes(options):
        click.echo(f"Note: {note}", err=True)
    if chosen["starts"]:
        _start(place, options, is_changed=changed)
    else:
        _say_next(place)


@click.command(epilog=example("sudo swarmlet daemon uninstall"))
@click.option("--force", is_flag=True, help="Remove a unit that `install` did not write.")
@unit_file_option
def uninstall(*, force: bool, unit_file: str) -> None:
    """Remove the service; its data, and the tasks that run, stay.

    Where systemd runs, the service is stopped and disabled first. To end the tasks too,
    `swarmlet leave --force` before.
    """
    place = _place(unit_file)
    found = _read(place.path)
    if found is None:
        click.echo(f"There is no {place.path}: nothing to do.")
        return
    if not found.startswith(FIRST_LINE) and not force:
        raise CommandError(
            f"{place.path} was not written by `swarmlet daemon install`.",
            "Look at it; --force removes it all the same.",
        )
    if place.is_usual:
        _systemctl(place, "disable", *(["--now"] if _has_systemd() else []), UNIT_FILE)
    os.unlink(place.path)
    if place.is_usual and _has_systemd():
        _systemctl(place, "daemon-reload")
    click.echo(f"{place.path} is removed. Data and running tasks stay where they are.")


def _options(client: Client, chosen: dict[str, str | bool], pieces: Sequence[str]) -> UnitOptions:
    uid = os.getuid()
    data_dir = os.path.abspath(str(chosen["data_dir"]) or default_data_dir(os.environ, uid))
    named = str(chosen["host"]) or client.named
    host = named or default_host(os.environ, uid, os.path.exists, data_dir=data_dir)
    others: list[str] = [*pieces]
    for name in ("runtime", "docker_host", "log_level", "log_format"):
        if chosen[name]:
            others += [f"--{name.replace('_', '-')}", str(chosen[name])]
    if chosen["allow_root_tasks"]:
        others.append("--allow-root-tasks")
    path = socket_path(host)
    return UnitOptions(
        python=sys.executable,
        arguments=daemon_arguments(data_dir, path, *others),
        data_dir=data_dir,
        socket_path=path,
        is_user=uid != 0,
    )


def _place(named: str) -> Place:
    is_user = os.getuid() != 0
    if named:
        return Place(os.path.abspath(named), is_user, is_usual=False)
    return Place(unit_path(), is_user, is_usual=True)


def unit_path() -> str:
    """Where this user's systemd reads the unit."""
    if os.getuid() == 0:
        return f"{ROOT_UNIT_DIR}/{UNIT_FILE}"
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return f"{base}/systemd/user/{UNIT_FILE}"


def _check(options: UnitOptions) -> None:
    """The command has to work without this shell's directory and environment."""
    kept = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    command = [*exec_start(options), "--check"]
    ran = run_program(command, timeout_s=CHECK_TIMEOUT_S, environment=kept)
    if ran.code == 0:
        return
    lines = ran.err.strip().splitlines() or [f"it ended with code {ran.code}"]
    said = next((line for line in lines if line.startswith("Error: ")), lines[-1])
    raise CommandError(
        f"The daemon would not start as a service: {said.removeprefix('Error: ')}",
        f"`{' '.join(exec_start(options))}`, which is what the unit runs.",
    )


def _put(path: str, text: str, *, force: bool) -> bool:
    """Write the unit, whole or not at all; False where it was there. Raises CommandError."""
    found = _read(path)
    if found == text:
        return False
    if found is not None and not force:
        click.echo("".join(_difference(found, text, path)), err=True, nl=False)
        raise CommandError(
            f"{path} is there and differs; it was left alone.",
            f"--force overwrites it. Changes that are to stay belong into "
            f"`systemctl edit {SERVICE}`.",
        )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = f"{path}.new"
    with suppress(FileNotFoundError):  # of a broken attempt, or somebody's link to another file
        os.unlink(draft)
    try:
        with open(draft, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)  # for all to read, whatever the umask
        os.replace(draft, path)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    return True


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(FILE_LENGTH_MAX_B)
    except FileNotFoundError:
        return None


def _difference(old: str, new: str, path: str) -> Iterator[str]:
    from difflib import unified_diff

    lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    for line in unified_diff(*lines, fromfile=path, tofile="this installation's"):
        yield line if line.endswith("\n") else line + "\n"


def _notes(options: UnitOptions) -> Iterator[str]:
    if options.is_user:
        yield (
            "your services end when you log out, unless root says "
            f"`loginctl enable-linger {os.environ.get('USER') or os.getuid()}`."
        )
    elif (owner := os.stat(sys.prefix).st_uid) != 0:
        yield (
            f"{sys.prefix} belongs to user {owner}, who can thereby become root; "
            "an installation for root is better off in /opt."
        )


def _say_next(place: Place) -> None:
    if not place.is_usual:
        return
    prefix = " ".join(place.systemctl())
    click.echo(f"Next: {prefix} daemon-reload && {prefix} enable --now {SERVICE}")
    click.echo(
        f"Its log: journalctl {'--user ' if place.is_user else ''}-u {SERVICE}. A daemon that "
        "runs already has to end first: `swarmlet daemon stop`; tasks run on."
    )


def _start(place: Place, options: UnitOptions, *, is_changed: bool) -> None:
    if not _has_systemd():
        raise CommandError(
            "The unit is there, but systemd does not run this host, so it was not started.",
            "`swarmlet daemon`, or whatever starts services here.",
        )
    _systemctl(place, "daemon-reload")
    is_active = run_program(
        place.systemctl("is-active", "--quiet", UNIT_FILE), timeout_s=SYSTEMCTL_TIMEOUT_S
    )
    if is_active.code != 0 and Client(options.socket_path).ping():
        raise CommandError(
            f"A daemon that is no service answers at {options.socket_path} already.",
            f"`swarmlet daemon stop` (tasks run on), then `{' '.join(place.systemctl())} enable "
            f"--now {SERVICE}`.",
        )
    _systemctl(place, "enable", UNIT_FILE)
    _systemctl(place, "restart" if is_changed else "start", UNIT_FILE)
    click.echo(f"The service runs; it starts at every boot. Its log: journalctl -u {SERVICE}")


def _systemctl(place: Place, *arguments: str) -> Ran:
    ran = run_program(place.systemctl(*arguments), timeout_s=SYSTEMCTL_TIMEOUT_S)
    if ran.code != 0:
        said = (ran.err or ran.out).strip() or f"it ended with code {ran.code}"
        raise CommandError(
            f"`{' '.join(place.systemctl(*arguments))}` failed: {said}",
            f"`journalctl -u {SERVICE}` may say why.",
        )
    return ran


def _has_systemd() -> bool:
    return os.path.isdir(SYSTEMD_IS_HERE)

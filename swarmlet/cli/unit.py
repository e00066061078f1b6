"""The systemd unit, as text: what the daemon needs, and what must not be set because of its tasks.

The process runtime's tasks are children of the daemon's supervisors: they live in the unit's
control group, and inherit what the unit sets. See systemd.service(5), .exec(5), .kill(5).
"""

import shlex
from typing import Final, NamedTuple

from swarmlet.core.paths import ROOT_DATA_DIR, ROOT_SOCKET, UNIX_PREFIX
from swarmlet.core.service import EXIT_STOPPED, EXIT_USAGE, SERVICE

UNIT_FILE: Final = f"{SERVICE}.service"
FIRST_LINE: Final = "# Written by `swarmlet daemon install`."
STOP_TIMEOUT_S: Final = 45  # the daemon's own waits together are shorter


class UnitOptions(NamedTuple):
    """What a unit is made of; paths are absolute."""

    python: str
    arguments: tuple[str, ...]  # of the daemon
    data_dir: str
    socket_path: str
    is_user: bool = False


def exec_start(options: UnitOptions) -> list[str]:
    """The command. -P: whatever lies in the working directory is not imported."""
    return [options.python, "-P", "-m", "swarmlet.daemon", *options.arguments]


def stop_command(options: UnitOptions) -> list[str]:
    """What systemd runs before it ends the daemon: where the whole host goes down, or a user's
    session, the daemon is told, so that the swarm does not wait for its tasks."""
    systemctl = "systemctl --user" if options.is_user else "systemctl"
    host = f"{UNIX_PREFIX}{options.socket_path}"
    stop = [options.python, "-P", "-m", "swarmlet", "--host", host, *_HOST_STOPPING]
    script = f'[ "$({systemctl} is-system-running)" != stopping ] || exec {shlex.join(stop)}'
    return ["/bin/sh", "-c", script]


_HOST_STOPPING: Final = ("daemon", "stop", "--host-stopping")


def unit_text(options: UnitOptions) -> str:
    """The whole unit."""
    parts = [_head(options), _service(options), _NOT_SET, _install(options)]
    return "\n".join(parts)


def quoted(word: str) -> str:
    """`word` as one word of ExecStart=: neither specifier nor variable nor escape is left in it."""
    safe = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    safe = safe.replace("%", "%%").replace("$", "$$")
    needs_quotes = not safe or safe != word or any(c in safe for c in " ';")
    return f'"{safe}"' if needs_quotes else safe


def quoted_path(path: str) -> str:
    """The same for what knows specifiers, but no variables: paths, and a command's program."""
    return quoted(path).replace("$$", "$")


def _head(options: UnitOptions) -> str:
    order = "" if options.is_user else _ORDER
    return f"""\
{FIRST_LINE}
# Changes belong into `systemctl edit {SERVICE}`: writing this file again keeps them.

[Unit]
Description=swarmlet, a node of a swarm
{order}RequiresMountsFor={quoted_path(options.data_dir)}
# For ever: a node whose disk was full for an hour comes back by itself.
StartLimitIntervalSec=0
"""


_ORDER: Final = """\
Wants=network-online.target
# Order alone: where there is a Docker Engine it starts first; when it stops, swarmlet runs on.
After=network-online.target docker.service containerd.service
"""


def _service(options: UnitOptions) -> str:
    program, *arguments = exec_start(options)
    command = " ".join([quoted_path(program), *map(quoted, arguments)])
    shell, *words = stop_command(options)
    stop = " ".join([shell, *map(quoted, words)])
    return f"""\
[Service]
# Ready means: the API listens.
Type=notify
NotifyAccess=main
ExecStart={command}
# Only where the host goes down does the daemon say so; then the swarm moves its tasks at once.
ExecStop=-{stop}
Restart=always
RestartSec=1
# {EXIT_USAGE}: an option nobody knows. {EXIT_STOPPED}: `swarmlet daemon stop`.
RestartPreventExitStatus={EXIT_USAGE} {EXIT_STOPPED}
SuccessExitStatus={EXIT_STOPPED}
TimeoutStartSec=10min
TimeoutStopSec={STOP_TIMEOUT_S}
# Tasks outlive the daemon, and the next one finds them: only the daemon itself is signalled.
KillMode=process
# The control groups below this unit's are the daemon's own.
Delegate=yes
# A task that runs out of memory is the daemon's business, and no reason to stop the unit.
OOMPolicy=continue
# The tasks are counted here too: no limit but their own.
TasksMax=infinity
StandardOutput=journal
StandardError=journal
SyslogIdentifier={SERVICE}
{_directories(options)}{"" if options.is_user else _LIMITS}"""


_LIMITS: Final = """\
LimitNPROC=infinity
# The daemon raises its own soft limit.
LimitNOFILE=1024:524288
# The kernel takes others first; tasks get a score of their own, 0 unless their service says else.
OOMScoreAdjust=-500
"""


def _directories(options: UnitOptions) -> str:
    """Where data and socket lie in the usual places, systemd makes them."""
    lines: list[str] = []
    if not options.is_user and options.socket_path == ROOT_SOCKET:
        lines += [
            f"RuntimeDirectory={SERVICE}",
            "RuntimeDirectoryMode=0755",
            "# It stays when the daemon ends: others may have it mounted.",
            "RuntimeDirectoryPreserve=yes",
        ]
    if not options.is_user and options.data_dir == ROOT_DATA_DIR:
        lines += [f"StateDirectory={SERVICE}", "StateDirectoryMode=0700"]
    return "".join(f"{line}\n" for line in lines)


_NOT_SET: Final = """\
# Not set, on purpose:
# PrivateTmp=, ProtectSystem=, ProtectHome=, PrivateMounts=, PrivateDevices=, ReadOnlyPaths=,
#   ProtectKernelTunables=, ProtectControlGroups= and their like give the unit a mount namespace of
#   its own: bind mounts of the host would be missing, and what is mounted here unseen outside.
# NoNewPrivileges=, CapabilityBoundingSet=, SystemCallFilter=, RestrictNamespaces=,
#   RestrictAddressFamilies=, MemoryDenyWriteExecute=, RestrictSUIDSGID=, LockPersonality= are
#   inherited by every task; a service says itself what its tasks may do.
# MemoryMax=, CPUQuota=, IOWeight=, IPAddressDeny= would bound all tasks together.
# WatchdogSec=: a start on a slow disk would look like a fault.
"""


def _install(options: UnitOptions) -> str:
    return f"""\
[Install]
WantedBy={"default.target" if options.is_user else "multi-user.target"}
"""


def daemon_arguments(data_dir: str, socket_path: str, *others: str) -> tuple[str, ...]:
    """The daemon's arguments: both places are always named, whatever the environment will be."""
    return ("--data-dir", data_dir, "--host", f"{UNIX_PREFIX}{socket_path}", *others)

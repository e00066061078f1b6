"""Why a task was not executed, in words. The shim tells a step and an errno; the command, which
must not be on disk, is added here."""

import errno
import os
from typing import Final

from swarmlet.runtime.base import RuntimeProblemError, TemporaryProblemError
from swarmlet.runtime.process.accounts import Account
from swarmlet.runtime.process.deliveries import FilePlan
from swarmlet.runtime.process.plan import Plan

_PASSING: Final = frozenset(
    {
        errno.EAGAIN,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EMFILE,
        errno.ENFILE,
        errno.ETXTBSY,
    }
)
_STEPS: Final = {
    "exec": "exec",
    "interpreter": "exec of the file's interpreter",
    "dir": "entering the working directory",
    "user": "becoming the task's user",
    "limit": "setting its limits",
    "oom_score_adj": "setting its OOM score",
    "hostname": "setting its host name",
    "namespaces": "isolating it",
    "proc": "isolating it",
    "hide": "hiding the data directory from it",
    "bundle": "writing to the data directory",
    "fork": "starting a process",
    "supervisor": "starting its supervisor",
    "source": "opening the source of a mount",
    "mount": "making a mount",
    "target": "mounting on its target",
    "files": "putting its secrets and configs into memory",
    "file": "putting a secret or config over a file of the node",
}


class StartFailedError(Exception):
    """The shim could not execute the task. `text`: its last words, where there is no errno."""

    def __init__(self, step: str, number: int, text: str) -> None:
        super().__init__(step, number, text)
        self.step, self.number, self.text = step, number, text

    @property
    def is_passing(self) -> bool:
        """Whether it may work in a second."""
        return self.number in _PASSING


def describe_step(step: str, number: int) -> str:
    """Without the spec's words: what can be said of a bundle alone."""
    reason = os.strerror(number) if number else "it ended at once"
    return f"task: {_STEPS.get(step.partition(':')[0], step)} failed: {reason}"


def start_problem(failure: StartFailedError, plan: Plan, account: Account) -> RuntimeProblemError:
    """The sentence of a failed start."""
    step, number = failure.step, failure.number
    if failure.is_passing:
        return TemporaryProblemError(describe_step(step, number), remedy="It is tried again.")
    if step in ("exec", "interpreter"):
        return command_problem(step, number, plan.arguments[0], account.uid)
    if step == "dir":
        return RuntimeProblemError(
            f"The working directory {plan.folder} cannot be entered: {os.strerror(number)}.",
            remedy=f"It must be there on this node, and open to uid {account.uid}.",
        )
    if ":" in step:
        return _mount_problem(step, number, plan, account)
    if step == "oom_score_adj":
        return RuntimeProblemError(
            f"The OOM score cannot be set to {plan.oom_score_adj}: {os.strerror(number)}.",
            remedy="A negative one needs CAP_SYS_RESOURCE; leave out --oom-score-adj.",
        )
    more = f" ({failure.text})" if failure.text and not number else ""
    return RuntimeProblemError(
        describe_step(step, number) + more, remedy="The daemon's log on the node may say more."
    )


def _mount_problem(step: str, number: int, plan: Plan, account: Account) -> RuntimeProblemError:
    """`step` is `source:`, `mount:`, `target:` or `file:` and the place in the plan."""
    what, _, index = step.partition(":")
    if what == "file":
        return _file_problem(plan.files[int(index)], number)
    mount, reason = plan.mounts[int(index)], os.strerror(number)
    if what == "source" and number == errno.EACCES:
        return RuntimeProblemError(
            f"The bind source {mount.source} is in a folder that the task may not enter.",
            remedy=f"The task runs as uid {account.uid}, and a bind gives it no more than it has: "
            "open the folders above to it, or name another user.",
        )
    if number == errno.ELOOP:
        reason = "a link was put into its path just now"
    if number == errno.ENOSYS:
        reason = "this kernel is older than Linux 5.12"
    if what == "target":
        return RuntimeProblemError(
            f"Nothing can be mounted on {mount.target}: {reason}.",
            remedy="It must be there on this node, a folder for a folder, a file for a file.",
        )
    name = mount.source if mount.kind == "bind" else f"for {mount.target}"
    return RuntimeProblemError(
        f"The {mount.kind} mount {name} cannot be made: {reason}.", remedy="Look at the node."
    )


def _file_problem(file: FilePlan, number: int) -> RuntimeProblemError:
    return RuntimeProblemError(
        f"The {file.kind} {file.name} cannot cover {file.target}: {os.strerror(number)}.",
        remedy="It must be there on this node, a file, and under none of the task's mounts.",
    )


def command_problem(step: str, number: int, command: str, uid: int) -> RuntimeProblemError:
    """Why the command was not executed, in a sentence."""
    if step == "interpreter":
        return RuntimeProblemError(
            f"exec: no such interpreter, named in the first line of {command}",
            remedy="Install it on the node.",
        )
    if number == errno.EACCES:
        return RuntimeProblemError(
            f"exec: permission denied: {command}",
            remedy=f"The task runs as uid {uid}: let it read and execute the file and "
            "enter its folders, or name another user.",
        )
    if number == errno.ENOENT and "/" not in command:
        return RuntimeProblemError(
            f"exec: no such command: {command}", remedy="It is in no folder of the task's PATH."
        )
    words = {errno.ENOENT: "no such file", errno.ENOEXEC: "not a program"}
    return RuntimeProblemError(
        f"exec: {words.get(number, os.strerror(number).lower())}: {command}",
        remedy="The command must be on the node that runs it: the image host brings no files.",
    )

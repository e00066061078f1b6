"""What a program beside a task is told: the task's world, and what was asked for."""

import errno
import os
from typing import Final

from swarmlet.runtime.base import NotExecutedError, RuntimeProblemError
from swarmlet.runtime.process.accounts import Account, AccountRules, find_account
from swarmlet.runtime.process.failures import StartFailedError, command_problem, describe_step
from swarmlet.runtime.process.plan import WORLD_KEYS
from swarmlet.runtime.process.sandbox import Config
from swarmlet.runtime.process.supervisor import EXEC_FDS
from swarmlet.wire.messages import ExecRequest

TERMINAL: Final = "TERM=xterm"  # Docker's
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as a shell says it


def find_user(user: str, kept: Config, rules: AccountRules) -> Account | None:
    """As whom a program runs; None: as the task. Raises RuntimeProblemError where this node runs no
    task as that user."""
    uid, gid = kept.text(b"uid").decode(), kept.text(b"gid").decode()
    if user in ("", uid, f"{uid}:{gid}"):
        return None
    account = find_account(user, (), rules)
    return account if rules.uid == 0 else None  # else it is whom the daemon runs as, as all are


def exec_config(
    kept: Config, request: ExecRequest, account: Account | None, beside: str
) -> list[tuple[str, str]]:
    """What the executor is told. `account` None: the task's own; `beside`: the task's main process,
    as `PID START`."""
    own = ("uid", "gid", "group") if account else ()
    world = [(os.fsdecode(key), os.fsdecode(value)) for key, value in kept.pairs]
    pairs = [("exec", "1"), ("last_fd", str(EXEC_FDS[-1])), ("beside", beside)]
    pairs += [("tty", "1"), ("env", TERMINAL)] if request.is_tty else []
    pairs += [pair for pair in world if pair[0] in WORLD_KEYS and pair[0] not in own]
    if account:
        pairs += [("uid", str(account.uid)), ("gid", str(account.gid))]
        pairs += [("group", str(group)) for group in account.groups]
        pairs.append(("env", f"HOME={account.home}"))
    pairs += [("dir", request.workdir)] if request.workdir else []
    pairs += [("env", entry) for entry in request.env if entry.find("=") > 0]
    return pairs + [("arg", argument) for argument in request.argv]


def check_request(request: ExecRequest) -> None:
    """Raise RuntimeProblemError for what the kernel could not take."""
    if not request.argv or not request.argv[0]:
        raise RuntimeProblemError("No program is named.", remedy="Name one to run in the task.")
    texts = (*request.argv, *request.env, request.user, request.workdir)
    if any("\0" in text for text in texts):
        raise RuntimeProblemError(
            "A program's words hold a NUL character: the kernel takes none.", remedy="Take it out."
        )


def exec_problem(failure: StartFailedError, request: ExecRequest, uid: int) -> NotExecutedError:
    """The sentence of a program that was not started, and the exit code it stands for."""
    step, number = failure.step, failure.number
    if step == "enter":
        text = f"The task cannot be entered: {os.strerror(number)}."
        return NotExecutedError(text, remedy="It may be ending.")
    if step == "own_users":
        text = "The task went into a user namespace of its own, and is not followed there."
        return NotExecutedError(text)
    if step in ("exec", "interpreter"):
        problem = command_problem(step, number, request.argv[0], uid)
        code = NOT_FOUND if number == errno.ENOENT else NOT_EXECUTABLE
        return NotExecutedError(problem.message, problem.remedy, exit_code=code)
    if step == "dir":
        return NotExecutedError(
            f"The working directory cannot be entered: {os.strerror(number)}.",
            remedy=f"It must be there as the task sees the node, and open to uid {uid}.",
        )
    return NotExecutedError(f"{describe_step(step, number)} {failure.text}".strip())

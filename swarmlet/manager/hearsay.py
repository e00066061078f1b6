"""What a node says is bounded before it is written down or shown: one node that lies must not fill
the store, or make answers that nobody's client can read. Pure."""

from typing import Final

import msgspec

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import NS_PER_MS, UINT63_MAX
from swarmlet.model.node import NodeDescription
from swarmlet.model.service import GenericResource
from swarmlet.model.task import TaskStatus
from swarmlet.wire.messages import LogLine, encode

DESCRIPTION_SIZE_MAX_B: Final = 256 * 1024  # encoded; one has 2 KiB, most of it the trusted root
STATUS_SIZE_MAX_B: Final = 64 * 1024  # encoded, its words cut
WORDS_LENGTH_MAX: Final = 4_096  # characters of a task's message, and of its error
PROBLEM_LENGTH_MAX: Final = 1_000  # characters, of why a stream into a task did not go on
BACK_IN_MAX_S: Final = 24 * 3_600.0  # a node that stays away longer has gone
WALL_MAX_MS: Final = 253_402_300_799_999  # the last of the year 9999: RFC 3339 has four digits
_STREAMS: Final = (1, 2)


def description_problem(description: NodeDescription) -> str:
    """Why a node may not say this of itself, or nothing."""
    if len(encode(description)) > DESCRIPTION_SIZE_MAX_B:
        return f"A node's description has at most {DESCRIPTION_SIZE_MAX_B >> 10} KiB."
    if not description.hostname.isprintable():
        return "A node's hostname has no characters that cannot be shown."
    resources = description.resources
    amounts = [resources.nano_cpus, resources.memory_bytes]
    amounts += map(_amount, resources.generic_resources)
    if not all(0 <= amount <= UINT63_MAX for amount in amounts):
        return "A node cannot have that much of a resource, or less than none."
    return ""


def checked_status(status: TaskStatus) -> TaskStatus:
    """The status with its words cut. Raises InvalidArgumentError."""
    if max(len(status.message), len(status.err)) > WORDS_LENGTH_MAX:
        message, err = status.message[:WORDS_LENGTH_MAX], status.err[:WORDS_LENGTH_MAX]
        status = msgspec.structs.replace(status, message=message, err=err)
    times = (status.at_ms, status.running_ms, status.applied_at_ms)
    if not all(0 <= at_ms <= WALL_MAX_MS for at_ms in times):
        raise InvalidArgumentError("A task's status has a time that never is.")
    numbers = (status.pid, status.exit_code)
    if not all(-UINT63_MAX <= number <= UINT63_MAX for number in numbers):
        raise InvalidArgumentError("A task's status has a number that is too large.")
    if len(encode(status)) > STATUS_SIZE_MAX_B:
        raise InvalidArgumentError(
            f"A task's status has at most {STATUS_SIZE_MAX_B >> 10} KiB besides its words."
        )
    return status


def told_problem(problem: str) -> str:
    """A sentence of a node's for people, cut."""
    return in_one_line(problem[:PROBLEM_LENGTH_MAX])


def in_one_line(text: str) -> str:
    """Without what would do something to a terminal, or look like another line."""
    return "".join(c if c.isprintable() else " " for c in text)


def checked_absence_s(back_in_s: float) -> float:
    """How long a node that says goodbye is waited for. Raises InvalidArgumentError."""
    if back_in_s != back_in_s:  # not a number, which is neither over nor ever due
        raise InvalidArgumentError("A node has to say for how long it goes.")
    return min(back_in_s, BACK_IN_MAX_S)


def check_line(line: LogLine) -> None:
    """Raises InvalidArgumentError."""
    if line.stream not in _STREAMS or not 0 <= line.at_ns <= WALL_MAX_MS * NS_PER_MS:
        raise InvalidArgumentError("A log line is of no stream, or of no time that ever is.")


def _amount(resource: GenericResource) -> int:
    discrete = resource.discrete_resource_spec
    return 0 if discrete is None else discrete.value

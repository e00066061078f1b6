"""How a command can fail, and with which exit code.

0 done, or converged    1 an error        2 wrong usage (click's)
3 cannot be placed      4 rolled back     5 timed out      130 interrupted
"""

from typing import ClassVar, Final

from swarmlet.core.errors import SwarmError

EXIT_ERROR: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130


class CommandError(SwarmError):
    """A command could not do what it was asked."""

    code = "command"
    exit_code: ClassVar[int] = EXIT_ERROR


class UnreachableError(CommandError):
    """No daemon answers at the address."""

    code = "unreachable"


class ApiError(CommandError):
    """The daemon refused; `status` is the HTTP status, the words are the daemon's. `problem` is the
    daemon's own code for it, "" where it has none."""

    code = "api"

    def __init__(self, status: int, message: str, remedy: str = "", problem: str = "") -> None:
        super().__init__(message, remedy)
        self.status, self.problem = status, problem


class PlacementError(CommandError):
    """Tasks wait for a place and the time to wait is over."""

    code = "cannot-be-placed"
    exit_code = 3


class RolledBackError(CommandError):
    """The update failed and the service went back to what it was."""

    code = "rolled-back"
    exit_code = 4


class TimedOutError(CommandError):
    """Nobody said no, but it took too long."""

    code = "timed-out"
    exit_code = 5

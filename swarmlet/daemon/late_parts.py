"""What only a manager needs, loaded when this node becomes one, and only from the release that the
daemon is: one that was installed over it meanwhile is another program, and half of each is none.
"""

from importlib import import_module
from pathlib import Path
from typing import Final

from swarmlet.core import version
from swarmlet.core.errors import FailedPreconditionError

PARTS: Final = (
    "swarmlet.daemon.founding",
    "swarmlet.daemon.membership",
    "swarmlet.manager.autolock",
    "swarmlet.reconcile.why.nodes",
    "swarmlet.reconcile.why.services",
    "swarmlet.reconcile.why.tasks",
)
"""They load the rest. What is imported within a function of the daemon or the API is among it."""


def load_parts() -> None:
    """In 0.1 to 0.3 s: not on the event loop. Raises ImportError."""
    for name in PARTS:
        import_module(name)


class LateParts:
    """To be made as the daemon starts. `release`: the file that every release changes."""

    def __init__(self, release: str = version.__file__) -> None:
        self._release = Path(release)
        self._began, self._are_loaded = self._release.read_bytes(), False

    def load(self) -> None:
        """Raises FailedPreconditionError where the program on the disk is another one, or gone."""
        if self._are_loaded:
            return
        try:
            self._check()
            load_parts()
            self._check()  # it takes a while, as an installation does
        except (OSError, ImportError) as error:
            raise _replaced(str(error)) from error
        self._are_loaded = True

    def _check(self) -> None:
        if self._release.read_bytes() != self._began:
            raise _replaced("it has another version")


def _replaced(why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        "What a manager needs cannot be loaded: the program on the disk is not the one that this "
        f"daemon runs ({why}).",
        remedy="Start the daemon again (`systemctl restart swarmlet`); its tasks run on.",
    )

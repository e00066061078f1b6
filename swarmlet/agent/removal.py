"""What a node does that was removed from its swarm: its tasks run elsewhere by now, so they end
here, as those of a node back from the dead that were replaced."""

import logging
from typing import Final

from swarmlet.agent.worker import Worker
from swarmlet.env.base import Clock

log = logging.getLogger("swarmlet.agent")

BELIEVED_AFTER_S: Final = 10.0  # of hearing nothing else: one manager alone may be mistaken


class Removal:
    """What managers say who are asked for a session. A node that is taken in again, as after a
    backup was restored, is told by its manager what to run."""

    def __init__(self, clock: Clock, worker: Worker) -> None:
        self._clock, self._worker = clock, worker
        self._since_s: float | None = None
        self._is_done = False

    def denied(self) -> None:
        """A manager took this node in, or refused it for another reason."""
        self._since_s, self._is_done = None, False

    def said(self) -> None:
        """A manager says that the swarm has removed this node."""
        now_s = self._clock.mono_s()
        if self._since_s is None:
            self._since_s = now_s
        if self._is_done or now_s - self._since_s < BELIEVED_AFTER_S:
            return
        if self._worker.is_ready.is_set():
            self._is_done = True
            log.warning("agent.removed", extra={"tasks": len(self._worker.statuses())})
            self._worker.assign((), (), is_complete=True)
            self._worker.payloads.replace({})

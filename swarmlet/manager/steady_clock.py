"""Wall time that passes evenly: how a leader counts what it waits for."""

from typing import Final

from swarmlet.core.limits import MS_PER_S
from swarmlet.env.base import Clock

JUMP_MIN_MS: Final = 1_000  # less is drift, which every clock has


class SteadyClock:
    """Begins (at `start`) with the wall clock's time, and goes on by monotonic time until `follow`
    is called: no setting of the clock makes anything due."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begin_ms, self._begin_s = 0, 0.0

    def start(self) -> None:
        self._begin_ms, self._begin_s = self._clock.wall_ms(), self._clock.mono_s()

    def now_ms(self) -> int:
        passed_s = self._clock.mono_s() - self._begin_s
        return self._begin_ms + round(passed_s * MS_PER_S)

    def at_ms(self, mono_s: float) -> int:
        """What `now_ms` was or will be then."""
        return self._begin_ms + round((mono_s - self._begin_s) * MS_PER_S)

    def follow(self) -> int:
        """By how much the wall clock was set since; this one shows what it shows from now on."""
        jump_ms = self._clock.wall_ms() - self.now_ms()
        if abs(jump_ms) < JUMP_MIN_MS:
            return 0
        self._begin_ms += jump_ms
        return jump_ms

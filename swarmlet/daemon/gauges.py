"""Numbers of the process itself: memory, files, and how late the event loop is."""

import asyncio
import os
from typing import Final

LAG_PERIOD_S: Final = 1.0  # between looks; each costs microseconds
_PAGE_B: Final = os.sysconf("SC_PAGE_SIZE")


class Gauges:
    """Process gauges in Prometheus' names."""

    def __init__(self) -> None:
        self._lag_max_s = 0.0

    async def watch_loop(self) -> None:
        """Measure lag for ever: how much later than asked a sleep returns."""
        clock = asyncio.get_running_loop().time
        while True:
            asked = clock()
            await asyncio.sleep(LAG_PERIOD_S)
            self._lag_max_s = max(self._lag_max_s, clock() - asked - LAG_PERIOD_S)

    def read(self) -> dict[str, float]:
        """The present numbers; the lag is the worst since the last reading."""
        with open("/proc/self/statm") as file:
            resident_pages = int(file.read().split()[1])
        lag, self._lag_max_s = self._lag_max_s, 0.0
        return {
            "process_resident_memory_bytes": float(resident_pages * _PAGE_B),
            "process_open_fds": float(len(os.listdir("/proc/self/fd"))),
            "swarmlet_loop_lag_seconds": max(0.0, lag),
        }

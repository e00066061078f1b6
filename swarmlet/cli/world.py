"""The CLI's own clock. `env.real` costs asyncio at start, which no listing can afford."""

from time import monotonic, sleep, time

__all__ = ["mono_s", "sleep_s", "wall_s"]


def wall_s() -> float:
    """Seconds since 1970, for "3 minutes ago"."""
    return time()


def mono_s() -> float:
    """Seconds for deadlines."""
    return monotonic()


def sleep_s(duration_s: float) -> None:
    """Sleep between two looks at the daemon."""
    sleep(duration_s)

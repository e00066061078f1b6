"""In which order files begin, where several are run at once, and which tests get a second try."""

import signal
from pathlib import Path
from typing import Final

import pytest

VIRTUAL: Final = frozenset({"core", "model", "reconcile", "sim", "store"})
"""Rooms whose tests decide on virtual time, and have one try. All others watch real processes,
sockets and disks against the clock: on a machine that stands still for a second they are run once
more, and the summary names each that was."""


def pytest_configure() -> None:
    """A run in the background of a script ignores the terminal's interrupt, and all it starts would
    as well: tests that interrupt a command wait in vain."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that may take long first, so that in the end no worker is left alone with one."""
    limits: dict[object, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit_s = float(marker.args[0]) if marker is not None else 0.0
        limits[item.path] = max(limits.get(item.path, 0.0), limit_s)
        if not VIRTUAL.intersection(item.path.relative_to(Path(__file__).parent).parts[:1]):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))
    items.sort(key=lambda item: -limits[item.path])

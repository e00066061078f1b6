"""In which order files begin, where several are run at once."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that may take long first, so that in the end no worker is left alone with one."""
    limits: dict[object, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit_s = float(marker.args[0]) if marker is not None else 0.0
        limits[item.path] = max(limits.get(item.path, 0.0), limit_s)
    items.sort(key=lambda item: -limits[item.path])

"""Cluster tests need root and namespaces, or containers; elsewhere they are skipped, and say so."""

import pytest

from tests.cluster.backends import missing

BACKENDS = ("namespaces", "compose")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of the shared suite that is marked with a back end is of that one only."""
    items[:] = [item for item in items if not all(map(item.get_closest_marker, BACKENDS))]
    reasons = {backend: missing(backend) for backend in BACKENDS}
    for item in items:
        if "tests/cluster/" in str(item.path):
            reason = reasons["compose" if item.get_closest_marker("compose") else "namespaces"]
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))

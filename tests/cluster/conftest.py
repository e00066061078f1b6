"""Cluster tests need root and namespaces, or containers; elsewhere they are skipped, and say so."""

import pytest

from tests.cluster.backends import missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {backend: missing(backend) for backend in ("namespaces", "compose")}
    for item in items:
        if "tests/cluster/" in str(item.path):
            reason = reasons["compose" if item.get_closest_marker("compose") else "namespaces"]
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))

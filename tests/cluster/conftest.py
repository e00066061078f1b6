"""Cluster tests need root and namespaces; elsewhere they are skipped with the reason."""

import pytest

from tests.cluster.hosts import missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if reason and "tests/cluster/" in str(item.path):
            item.add_marker(pytest.mark.skip(reason=reason))

"""Fixtures with real daemons."""

import pytest

from tests.daemon.harness import running_daemon


@pytest.fixture
def daemon():
    """A daemon in no swarm."""
    with running_daemon() as running:
        yield running


@pytest.fixture
def swarm(daemon):
    """A client of a daemon in a swarm of its own."""
    daemon.init()
    return daemon

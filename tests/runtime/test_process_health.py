"""Docker's rules of health: tables and properties, no processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.limits import NS_PER_S
from swarmlet.model.container import HealthConfig
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.process.health import (
    Health,
    HealthRules,
    HealthStatus,
    after_probe,
    begin,
    health_command,
    health_rules,
)

STARTING, HEALTHY, UNHEALTHY = HealthStatus
RULES = HealthRules(interval_s=10, timeout_s=3, retries=3)
SLOW = HealthRules(interval_s=10, timeout_s=3, start_period_s=20, start_interval_s=2, retries=2)


def follow(rules: HealthRules, results: str, probe_s: float = 1.0) -> Health:
    """Each probe when it is due; `+` a success, `-` a failure."""
    health = begin(rules, 100.0)
    for result in results:
        began_s = health.due_s
        health = after_probe(health, began_s, began_s + probe_s, was_healthy=result == "+")
    return health


@pytest.mark.parametrize(
    ("rules", "results", "status", "failures", "due_s"),
    [
        (RULES, "", STARTING, 0, 110),
        (RULES, "+", HEALTHY, 0, 121),
        (RULES, "-", STARTING, 1, 121),
        (RULES, "--+", HEALTHY, 0, 143),
        (RULES, "---", UNHEALTHY, 3, 143),
        (RULES, "+--+--", HEALTHY, 2, 176),
        (RULES, "+---", UNHEALTHY, 3, 154),
        (SLOW, "", STARTING, 0, 102),
        (SLOW, "-----", STARTING, 0, 117),
        (SLOW, "------", STARTING, 0, 120),  # begun at 117: within the period, the next is not
        (SLOW, "-------", STARTING, 1, 131),
        (SLOW, "--------", UNHEALTHY, 2, 142),
        (SLOW, "+", HEALTHY, 0, 113),
        (SLOW, "+-", HEALTHY, 1, 124),  # after the first success every failure counts
        (SLOW, "+--", UNHEALTHY, 2, 135),
    ],
)
def test_health_follows_what_the_probes_find(rules, results, status, failures, due_s):
    health = follow(rules, results)
    assert (health.status, health.failures, health.due_s) == (status, failures, due_s)


@given(st.text("+-", max_size=40), st.integers(1, 5), st.floats(0, 60), st.floats(0, 20))
def test_unhealthy_means_retries_failures_in_a_row_and_nothing_else(
    results, retries, start_period_s, probe_s
):
    rules = HealthRules(interval_s=10, start_period_s=start_period_s, retries=retries)
    health = begin(rules, 0.0)
    counted = 0
    for result in results:
        began_s = health.due_s
        was_starting = health.status is STARTING and began_s < start_period_s
        counted = 0 if result == "+" else counted + (not was_starting)
        before, health = (
            health,
            after_probe(health, began_s, began_s + probe_s, was_healthy=result == "+"),
        )
        assert health.due_s >= began_s + probe_s  # probes of one task never overlap
        assert health.failures == counted
        if health.status is UNHEALTHY:
            assert counted == retries
            return
        assert counted < retries
        assert (health.status is HEALTHY) == (before.status is HEALTHY or result == "+")


def test_what_a_spec_leaves_at_zero_is_dockers_default():
    assert health_rules(HealthConfig()) == HealthRules(
        interval_s=30, timeout_s=30, start_period_s=0, start_interval_s=5, retries=3
    )
    config = HealthConfig(
        interval=NS_PER_S // 2,
        timeout=2 * NS_PER_S,
        start_period=3 * NS_PER_S,
        start_interval=4 * NS_PER_S,
        retries=5,
    )
    assert health_rules(config) == HealthRules(
        interval_s=0.5, timeout_s=2, start_period_s=3, start_interval_s=4, retries=5
    )


@pytest.mark.parametrize(
    ("test", "command"),
    [
        ([], ()),
        (["NONE"], ()),
        (["CMD", "curl", "-f", "a b"], ("curl", "-f", "a b")),
        (["CMD-SHELL", "a && b"], ("/bin/sh", "-c", "a && b")),
    ],
)
def test_command_of_a_check_is_read_as_docker_does(test, command):
    assert health_command(HealthConfig(test=test)) == command


@pytest.mark.parametrize(
    "test", [["CMD"], ["CMD", ""], ["CMD-SHELL"], ["NONE", "x"], ["true"], ["CMD-SHELL", "a", "b"]]
)
def test_check_without_a_command_is_refused(test):
    with pytest.raises(RuntimeProblemError) as caught:
        health_command(HealthConfig(test=test))
    assert caught.value.remedy


def test_no_check_needs_no_command():
    assert health_command(None) == ()

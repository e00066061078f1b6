"""How often strangers may try and nodes may ask: what passes, waits, and is remembered."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.manager.rate_limit import (
    EXPIRED_OF_ONE,
    FAILURES_OF_ALL,
    FAILURES_OF_ONE,
    FORGIVEN_OF_ONE,
    JOINS_OF_ALL,
    NEWS_MAX,
    REGISTRATION_QUIET_S,
    REGISTRATIONS_MAX,
    RENEWALS_OF_ONE,
    Buckets,
    JoinLimits,
    Rate,
    RegistrationRate,
    RenewalLimits,
    address_key,
)

RATE = Rate(burst=3, refill_s=10.0)


def test_two_hundred_good_joins_from_one_address_pass_at_once():
    limits = JoinLimits()
    for _ in range(200):
        limits.begin("192.0.2.1:4711", 0.0)
        limits.succeeded(0.0)


def test_wrong_tokens_from_one_address_shut_out_that_address_and_no_other():
    limits = JoinLimits()
    for _ in range(FAILURES_OF_ONE.burst):
        limits.begin("192.0.2.1:1", 0.0)
        limits.failed("192.0.2.1:1", 0.0)
    with pytest.raises(UnavailableError, match=r"from this address. Try again in 3 s\.") as no:
        limits.begin("192.0.2.1:2", 0.0)
    assert no.value.http_status == 503
    limits.begin("192.0.2.2:1", 0.0)
    limits.begin("192.0.2.1:3", FAILURES_OF_ONE.refill_s)


def test_wrong_tokens_from_everywhere_shut_out_all_for_a_moment():
    limits = JoinLimits()
    for number in range(FAILURES_OF_ALL.burst):
        limits.failed(f"10.0.{number // 256}.{number % 256}:1", 0.0)
    with pytest.raises(UnavailableError, match=r"Too many wrong join tokens came in. Try again"):
        limits.begin("192.0.2.1:1", 0.0)
    limits.begin("192.0.2.1:1", 1.0)


def test_joins_are_bounded_in_all():
    limits = JoinLimits()
    for _ in range(JOINS_OF_ALL.burst):
        limits.begin("192.0.2.1:1", 0.0)
        limits.succeeded(0.0)
    with pytest.raises(UnavailableError, match="at once"):
        limits.begin("192.0.2.1:1", 0.0)


@pytest.mark.parametrize(
    ("is_expired", "burst"), [(True, EXPIRED_OF_ONE.burst), (False, RENEWALS_OF_ONE.burst)]
)
def test_renewals_are_limited_node_by_node(is_expired, burst):
    limits = RenewalLimits()
    for _ in range(burst):
        limits.take("n1", 0.0, is_expired=is_expired)
    with pytest.raises(UnavailableError, match="n1 asks for certificates too often"):
        limits.take("n1", 0.0, is_expired=is_expired)
    limits.take("n2", 0.0, is_expired=is_expired)
    limits.take("n1", 0.0, is_expired=not is_expired)


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("192.0.2.1:2377", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]:2377", "2001:db8::/64"),
        ("[2001:db8::ffff:1]:9", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("[::ffff:192.0.2.1]:5", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("host", "host"),
    ],
)
def test_address_is_known_without_its_port_and_within_its_network(source, key):
    assert address_key(source) == key


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60))
def test_bucket_lets_through_no_more_than_its_burst_and_its_refill(steps):
    buckets, now_s = Buckets(RATE), 0.0
    passed: dict[str, list[float]] = {}
    for key, step_s in steps:
        now_s += step_s
        if buckets.wait_s(key, now_s) == 0:
            buckets.take(key, now_s)
            passed.setdefault(key, []).append(now_s)
        else:
            assert buckets.wait_s(key, now_s + buckets.wait_s(key, now_s) + 1e-6) == 0
    for times in passed.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                allowed = RATE.burst + (times[last] - times[first]) / RATE.refill_s
                assert last - first + 1 <= allowed + 1e-6


def test_memory_is_bounded_and_the_longest_unseen_is_forgotten():
    buckets = Buckets(RATE, keys_max=100)
    for number in range(1_000):
        buckets.take(str(number), 0.0)
        for _ in range(RATE.burst):
            buckets.take("busy", 0.0)
    assert len(buckets) == 100
    assert buckets.wait_s("busy", 0.0) > 0


NODE = NodeID("n")


def test_node_that_registers_over_and_over_waits_for_a_quiet_time():
    rate = RegistrationRate()
    assert [rate.wait_s(NODE, 1.0) for _ in range(REGISTRATIONS_MAX)] == [0.0] * REGISTRATIONS_MAX
    assert rate.wait_s(NODE, 3.0) == REGISTRATION_QUIET_S - 2.0
    assert rate.wait_s(NODE, 1.0 + REGISTRATION_QUIET_S) == 0.0


def test_new_certificate_of_a_rotation_does_not_count_against_a_node_but_has_a_bound():
    rate = RegistrationRate()
    assert rate.wait_s(NODE, 0.0) == 0.0
    assert all(rate.wait_s(NODE, 0.0, is_news=True) == 0.0 for _ in range(NEWS_MAX))
    assert rate.wait_s(NODE, 0.0, is_news=True) == REGISTRATION_QUIET_S
    assert rate.wait_s(NODE, 0.0) == 0.0


def test_goodbyes_are_forgiven_as_often_as_honest_nodes_say_them():
    rate = RegistrationRate()

    def comes_and_goes() -> float:
        wait_s = rate.wait_s(NODE, 0.0)
        rate.forgive(NODE, 0.0)
        return wait_s

    in_all = FORGIVEN_OF_ONE.burst + REGISTRATIONS_MAX
    assert [comes_and_goes() for _ in range(in_all)] == [0.0] * in_all
    assert comes_and_goes() == REGISTRATION_QUIET_S

"""How often a node may register, and what does not count against it."""

from swarmlet.core.ids import NodeID
from swarmlet.manager.session_watch import (
    NEWS_MAX,
    REGISTRATION_QUIET_S,
    REGISTRATIONS_MAX,
    RegistrationRate,
)

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

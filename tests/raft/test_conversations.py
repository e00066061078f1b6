"""What a member believes of what others say against it."""

from types import SimpleNamespace

import pytest

from swarmlet.raft.conversations import Conversations
from swarmlet.raft.hello import ROLLED_BACK, Refusal
from tests.raft.member import ME
from tests.sim.disk import SimDisk
from tests.sim.loop import sim_env


@pytest.mark.parametrize(
    ("durable", "is_believed"),
    [((5, 53), False), ((5, 60), False), ((5, 52), True), ((4, 60), True)],
)
def test_member_that_has_what_it_is_said_to_have_lost_does_not_believe_it(durable, is_believed):
    """Its hello was on its way, or waited for a manager that stood still, while it went on."""
    driver = SimpleNamespace(
        durable=durable,
        env=sim_env(1, SimDisk()),
        me=ME,
        problem=None,
        wake=lambda: None,
    )
    conversations = Conversations(driver, lambda raft_id: None)
    refusal = Refusal(reason=ROLLED_BACK, sentence="You went back.", term=5, index=53)
    conversations.refused(8, refusal)
    assert (driver.problem is not None) == is_believed

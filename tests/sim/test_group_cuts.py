"""A power cut at every disk operation of an election, a join and a change of keys."""

import os

import pytest

from tests.sim.disk import WHERES
from tests.sim.group_cuts import STORIES, cut_story

CUT_STEP = int(os.environ.get("SWARMLET_SIM_CUT_STEP", "2"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("story", STORIES)
def test_power_cut_at_every_disk_operation_of_a_story_loses_nothing(story, where):
    operation = WHERES.index(where) % CUT_STEP
    while cut_story(story, operation, where):
        operation += CUT_STEP
    assert operation >= CUT_STEP

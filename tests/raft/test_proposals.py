"""Proposals that nobody answers: told so when the time for a call is over, one timer for all."""

import asyncio

import pytest

from swarmlet.core.errors import OutcomeUnknownError, UnavailableError
from swarmlet.core.limits import PROPOSAL_TIMEOUT_S
from swarmlet.raft.hardening import SUCCESS
from swarmlet.raft.proposals import Proposals
from tests.agent.virtual_time import run_virtual


def new_proposals() -> Proposals:
    return Proposals(10, 1_000_000)


def test_proposal_nobody_answers_is_unknown_when_its_time_is_over():
    async def story() -> None:
        proposals, loop = new_proposals(), asyncio.get_running_loop()
        start_s = loop.time()
        first, _ = proposals.open(1)
        await asyncio.sleep(5)
        second, answer = proposals.open(1)
        with pytest.raises(OutcomeUnknownError, match="20 s went by"):
            await first
        assert loop.time() - start_s == pytest.approx(PROPOSAL_TIMEOUT_S)
        answer(7, SUCCESS)
        assert await second == 7

    run_virtual(story())


def test_each_has_its_own_time_though_one_timer_watches_all():
    async def story() -> None:
        proposals, loop = new_proposals(), asyncio.get_running_loop()
        start_s, ends = loop.time(), []
        for _ in range(3):
            ends.append(proposals.open(1)[0])
            await asyncio.sleep(1)
        for number, future in enumerate(ends):
            with pytest.raises(OutcomeUnknownError):
                await future
            assert loop.time() - start_s == pytest.approx(number + PROPOSAL_TIMEOUT_S)

    run_virtual(story())


def test_late_answer_still_frees_the_place():
    async def story() -> None:
        proposals = new_proposals()
        future, answer = proposals.open(100)
        with pytest.raises(OutcomeUnknownError):
            await future
        assert proposals.size_b == 100
        answer(7, SUCCESS)
        assert proposals.size_b == 0

    run_virtual(story())


def test_who_waits_for_room_in_vain_is_told_that_nothing_was_changed():
    async def story() -> None:
        proposals = new_proposals()
        with pytest.raises(UnavailableError, match="nothing was changed"):
            await proposals.wait_for_room(50)
        assert proposals.wanted_b == 0

    run_virtual(story())

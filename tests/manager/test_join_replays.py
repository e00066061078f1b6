"""A join that is repeated by somebody else: anybody may read a request off the port."""

from swarmlet.manager.rate_limit import JOINS_OF_ALL
from tests.manager.authority_world import Fleet, play, request


def test_repeating_a_known_request_takes_no_joins_from_others():
    async def story(fleet: Fleet) -> None:
        csr = request()
        node_id = await fleet.ask(csr, fleet.tokens.worker)
        await fleet.signed(node_id)
        for _ in range(JOINS_OF_ALL.burst):
            assert await fleet.ask(csr, "no token") == node_id
        assert await fleet.ask(request(), fleet.tokens.worker) != node_id

    play(story)

"""Clients of the API: `api` of a node in a swarm, `lonely` of one that is in none."""

from collections.abc import AsyncIterator

import pytest

from tests.api.world import Api, World, serve


@pytest.fixture
async def lonely() -> AsyncIterator[Api]:
    world = World()
    _, client = await serve(world)
    yield Api(world, client)
    await client.close()


@pytest.fixture
async def api(lonely: Api) -> Api:
    status, answer = await lonely("POST", "/swarm/init", {"AdvertiseAddr": "127.0.0.1"})
    assert status == 200, answer
    return lonely

"""`/swarmlet/v1/join-tokens`."""

import pytest

PATH = "/swarmlet/v1/join-tokens"


async def test_extra_token_is_created_listed_and_revoked(api):
    assert await api("GET", PATH) == (200, [])
    body = {"Role": "worker", "Labels": {"zone": "a"}, "ExpiresIn": 3_600 * 10**9, "Uses": 3}
    status, made = await api("POST", PATH, body)
    assert status == 201
    assert made["Token"].startswith("SWMTKN-1-")
    status, (shown,) = await api("GET", PATH)
    assert status == 200
    assert shown == {
        "ID": made["ID"],
        "CreatedAt": "2026-01-02T03:04:05.678Z",
        "Role": "worker",
        "Labels": {"zone": "a"},
        "ExpiresAt": "2026-01-02T04:04:05.678Z",
        "Uses": 0,
        "UsesMax": 3,
        "State": "valid",
    }
    assert (await api("DELETE", f"{PATH}/{made['ID']}"))[0] == 204
    assert await api("GET", PATH) == (200, [])
    status, answer = await api("DELETE", f"{PATH}/{made['ID']}")
    assert (status, answer["message"]) == (404, f"join token {made['ID']} not found")


async def test_token_without_bounds_says_so(api):
    await api("POST", PATH, {"Role": "manager"})
    _, (shown,) = await api("GET", PATH)
    assert (shown["ExpiresAt"], shown["UsesMax"], shown["Labels"]) == (None, 0, {})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "invalid role"),
        ({"Role": "worker", "Uses": -1}, "at least one use"),
        ({"Role": "worker", "ExpiresIn": "24h"}, "ExpiresIn must be an integer, not a string"),
    ],
)
async def test_bad_token_is_refused(api, body, sentence):
    status, answer = await api("POST", PATH, body)
    assert status == 400
    assert sentence in answer["message"]


async def test_node_in_no_swarm_has_no_tokens(lonely):
    for method, path in (("GET", PATH), ("POST", PATH), ("DELETE", f"{PATH}/x")):
        status, answer = await lonely(method, path, {} if method == "POST" else None)
        assert status == 503, answer

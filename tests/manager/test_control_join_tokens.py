"""Extra join tokens through the API's verbs."""

import pytest

from swarmlet.core.errors import InvalidArgumentError, NotFoundError, UnavailableError
from swarmlet.manager.control.join_tokens import TOKENS_MAX
from swarmlet.manager.join_grant import find_grant, secret_hash
from swarmlet.model.change import Create
from swarmlet.model.join_token import JoinToken, JoinTokenSpec
from tests.manager.control_world import new_swarm
from tests.store.worlds import START_MS

HOUR_NS = 3_600 * 10**9


def given(**fields: object) -> JoinTokenSpec:
    return JoinTokenSpec(**{"role": "worker", **fields})


async def test_token_is_told_once_and_stored_as_a_hash():
    swarm = await new_swarm()
    labels = {"zone": "a"}
    made = await swarm.control.create_join_token(
        given(labels=labels, expires_in=24 * HOUR_NS, uses=3)
    )
    secret = made.token.rpartition("-")[2]
    assert secret not in repr(made)
    ((row, state),) = swarm.control.join_tokens(await swarm.control.read())
    assert (row.id, row.role, row.labels, state) == (made.id, "worker", labels, "valid")
    assert (row.expires_ms, row.uses_max, row.uses) == (START_MS + 86_400_000, 3, 0)
    assert row.secret_hash == secret_hash(secret)
    assert find_grant(swarm.view, made.token).extra == row
    assert not any(secret.encode() in entry for entry in swarm.log.entries)


async def test_token_without_bounds_is_good_for_ever():
    swarm = await new_swarm()
    await swarm.control.create_join_token(given(role="manager"))
    ((row, _),) = swarm.control.join_tokens(await swarm.control.read())
    assert (row.expires_ms, row.uses_max) == (0, 0)
    assert row.state(START_MS * 1_000) == "valid"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"role": ""}, "invalid role"),
        ({"role": "Worker"}, "invalid role"),
        ({"labels": {"": "x"}}, "label needs a name"),
        ({"expires_in": -1}, "expire in the future"),
        ({"expires_in": 999_999_999}, "expire in the future"),
        ({"uses": -1}, "at least one use"),
    ],
)
async def test_token_that_makes_no_sense_is_refused(fields, sentence):
    swarm = await new_swarm()
    with pytest.raises(InvalidArgumentError, match=sentence) as refused:
        await swarm.control.create_join_token(given(**fields))
    assert refused.value.remedy or "label" in refused.value.message
    assert swarm.control.join_tokens(await swarm.control.read()) == []


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({"expires_ms": START_MS + 1}, "valid"),
        ({"expires_ms": START_MS}, "expired"),
        ({"uses_max": 2, "uses": 1}, "valid"),
        ({"uses_max": 2, "uses": 2}, "used-up"),
    ],
)
async def test_list_says_which_tokens_still_let_nodes_in(row, state):
    swarm = await new_swarm()
    await swarm.put(Create(obj=JoinToken(id="a", role="worker", secret_hash=b"h", **row)))
    ((_, shown),) = swarm.control.join_tokens(await swarm.control.read())
    assert shown == state


async def test_token_is_revoked_by_its_id_or_the_beginning_of_it():
    swarm = await new_swarm()
    rows = [JoinToken(id=name, role="worker", secret_hash=name.encode()) for name in ("ab", "abc")]
    await swarm.put(*(Create(obj=row) for row in rows))
    with pytest.raises(InvalidArgumentError, match=r"ambiguous \(2 matches found\)"):
        await swarm.control.remove_join_token("a")
    await swarm.control.remove_join_token("ab")
    await swarm.control.remove_join_token("a")
    for ref in ("ab", ""):
        with pytest.raises(NotFoundError, match="join token"):
            await swarm.control.remove_join_token(ref)


async def test_tokens_are_bounded():
    swarm = await new_swarm()
    await swarm.put(
        *(
            Create(obj=JoinToken(id=str(n), role="worker", secret_hash=str(n).encode()))
            for n in range(TOKENS_MAX)
        )
    )
    with pytest.raises(UnavailableError, match=f"has {TOKENS_MAX} extra join tokens"):
        await swarm.control.create_join_token(given())

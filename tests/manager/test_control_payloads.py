"""Secrets and configs through the API's verbs."""

import pytest

from swarmlet.core.errors import (
    ConflictError,
    DiskFullError,
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    OutcomeUnknownError,
    StaleVersionError,
    UnsupportedError,
)
from swarmlet.core.ids import is_id
from swarmlet.model.base import Driver
from swarmlet.model.config import ConfigSpec
from swarmlet.model.secret import SecretSpec
from tests.manager.control_world import new_swarm


def verbs(control, kind):
    """create, update, remove and the spec's type of a kind."""
    spec = {"secret": SecretSpec, "config": ConfigSpec}[kind]
    names = (f"create_{kind}", f"update_{kind}", f"remove_{kind}")
    return (*(getattr(control, name) for name in names), spec)


KINDS = pytest.mark.parametrize("kind", ["secret", "config"])


@KINDS
async def test_payload_is_stored_as_it_was_sent(kind):
    swarm = await new_swarm()
    create, _, _, spec = verbs(swarm.control, kind)
    sent = spec(name="a", labels={"k": "v"}, data=b"\0\xff")
    row_id = await create(sent)
    row = getattr(swarm.view, f"{kind}s").get(row_id)
    assert is_id(row_id)
    assert row.spec == sent
    assert row.version == swarm.view.index
    assert row.created_ms == row.updated_ms > 0


@KINDS
async def test_second_payload_of_a_name_is_refused_whatever_its_case(kind):
    swarm = await new_swarm()
    create, _, _, spec = verbs(swarm.control, kind)
    await create(spec(name="a", data=b"x"))
    with pytest.raises(ConflictError, match=f"{kind} A already exists") as refused:
        await create(spec(name="A", data=b"x"))
    assert refused.value.http_status == 409


@KINDS
async def test_bad_payload_is_refused_and_nothing_is_written(kind):
    swarm = await new_swarm()
    create, _, _, spec = verbs(swarm.control, kind)
    before = swarm.view.index
    with pytest.raises(InvalidArgumentError):
        await create(spec(name="a"))
    assert swarm.view.index == before


async def test_secret_driver_is_refused_and_nothing_is_written():
    swarm = await new_swarm()
    before = swarm.view.index
    with pytest.raises(UnsupportedError):
        await swarm.control.create_secret(SecretSpec(name="a", driver=Driver(name="vault")))
    assert swarm.view.index == before


@KINDS
@pytest.mark.parametrize("data", [b"", b"x"])
async def test_labels_of_a_payload_may_change(kind, data):
    swarm = await new_swarm()
    create, update, _, spec = verbs(swarm.control, kind)
    row_id = await create(spec(name="a", data=b"x"))
    version = swarm.view.index
    await update("a", version, spec(name="a", labels={"k": "v"}, data=data))
    row = getattr(swarm.view, f"{kind}s").get(row_id)
    assert row.spec == spec(name="a", labels={"k": "v"}, data=b"x")
    assert row.version > version


@KINDS
@pytest.mark.parametrize("change", [{"data": b"y"}, {"name": "b"}, {"name": ""}])
async def test_nothing_but_labels_of_a_payload_may_change(kind, change):
    swarm = await new_swarm()
    create, update, _, spec = verbs(swarm.control, kind)
    await create(spec(name="a", data=b"x"))
    with pytest.raises(InvalidArgumentError) as refused:
        await update("a", swarm.view.index, spec(**{"name": "a", "data": b"x", **change}))
    assert refused.value.message == "only updates to Labels are allowed"


@KINDS
async def test_stale_update_of_a_payload_is_refused(kind):
    swarm = await new_swarm()
    create, update, _, spec = verbs(swarm.control, kind)
    await create(spec(name="a", data=b"x"))
    version = swarm.view.index
    await update("a", version, spec(name="a"))
    with pytest.raises(StaleVersionError) as refused:
        await update("a", version, spec(name="a", labels={"k": "v"}))
    assert refused.value.http_status == 500
    assert "update out of sequence" in refused.value.message


@KINDS
async def test_removed_payload_is_gone_and_its_name_free(kind):
    swarm = await new_swarm()
    create, _, remove, spec = verbs(swarm.control, kind)
    row_id = await create(spec(name="a", data=b"x"))
    await remove(row_id[:10])
    assert len(getattr(swarm.view, f"{kind}s")) == 0
    await create(spec(name="a", data=b"x"))
    with pytest.raises(NotFoundError, match=f"{kind} nope not found"):
        await remove("nope")


async def test_unknown_outcome_says_so_and_names_the_object():
    swarm = await new_swarm()
    swarm.log.fail_next("lost")
    with pytest.raises(OutcomeUnknownError) as unknown:
        await swarm.control.create_config(ConfigSpec(name="a", data=b"x"))
    assert unknown.value.http_status == 503
    assert "config a" in unknown.value.remedy


async def test_full_disk_and_lost_leadership_change_nothing():
    swarm = await new_swarm()
    swarm.log.fail_next("full")
    with pytest.raises(DiskFullError):
        await swarm.control.create_config(ConfigSpec(name="a", data=b"x"))
    swarm.log.is_leader = False
    with pytest.raises(NotLeaderError):
        await swarm.control.create_config(ConfigSpec(name="a", data=b"x"))
    with pytest.raises(NotLeaderError):
        await swarm.control.read()
    assert len(swarm.view.configs) == 0

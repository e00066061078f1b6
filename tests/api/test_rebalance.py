"""`/swarmlet/v1/rebalance`, and the label that asks for it."""

from msgspec.structs import replace

from swarmlet.model.change import Create, SetNodeStatus
from swarmlet.model.node import RUNTIME_LABEL, NodeState
from swarmlet.model.view import cluster_of
from tests.api.world import NODE_ID

PATH = "/swarmlet/v1/rebalance"
SPEC = {
    "Name": "web",
    "TaskTemplate": {"ContainerSpec": {"Image": "host", "Args": ["sleep"]}},
    "Mode": {"Replicated": {"Replicas": 2}},
}


async def uneven(api, spec):
    """A service whose two tasks run on one of two nodes."""
    _, made = await api("POST", "/services/create", spec)
    tasks = [await api.world.add_task(made["ID"], slot=slot) for slot in (1, 2)]
    row = api.world.store.view().nodes.get(NODE_ID)
    ready = replace(row.status, state=int(NodeState.READY))
    other = replace(row, id="n" * 25, manager=None, version=0, status=ready)
    engine = replace(row.description.engine, labels={RUNTIME_LABEL: "process"})
    hosted = replace(row.description, hostname="other", engine=engine)
    await api.world.commit(
        SetNodeStatus(id=NODE_ID, status=ready), Create(obj=replace(other, description=hosted))
    )
    return tasks


async def test_dry_run_says_who_would_move_where_and_why_and_changes_nothing(api):
    first, second = await uneven(api, SPEC)
    status, answer = await api("POST", f"{PATH}?dry-run=1")
    assert status == 200
    (move,) = answer["Moves"]
    assert move["TaskID"] in (first.id, second.id)
    assert (move["NodeID"], move["ToNodeID"], move["ToHostname"]) == (NODE_ID, "n" * 25, "other")
    assert (move["ServiceName"], move["Way"], move["Hindrance"]) == ("web", "start-first", "")
    assert move["Reason"].startswith("2 of its tasks run on ")
    assert cluster_of(api.world.store.view()).rebalance_asked_ms == 0


async def test_wish_is_written_down_for_the_leader(api):
    await uneven(api, SPEC)
    status, answer = await api("POST", PATH)
    assert (status, len(answer["Moves"])) == (200, 1)
    assert cluster_of(api.world.store.view()).rebalance_asked_ms == api.world.env.clock.wall_ms()


async def test_service_that_forbids_it_is_named_with_the_reason(api):
    await uneven(api, {**SPEC, "Labels": {"swarmlet.rebalance": "off"}})
    _, answer = await api("POST", PATH)
    (move,) = answer["Moves"]
    assert move["Hindrance"] == "the service is not to be rebalanced (off)"


async def test_label_that_means_nothing_is_refused_with_a_sentence(api):
    labels = {"swarmlet.rebalance": "sometimes"}
    status, answer = await api("POST", "/services/create", {**SPEC, "Labels": labels})
    assert status == 400
    assert "no way to rebalance" in answer["message"]


async def test_swarm_takes_the_label_and_no_other_word(api):
    _, swarm = await api("GET", "/swarm")
    query = f"version={swarm['Version']['Index']}"
    bad = {**swarm["Spec"], "Labels": {"swarmlet.rebalance": "sometimes"}}
    status, answer = await api("POST", f"/swarm/update?{query}", bad)
    assert status == 400
    assert "no way to rebalance" in answer["message"]
    good = {**swarm["Spec"], "Labels": {"swarmlet.rebalance": "on-join"}}
    status, _ = await api("POST", f"/swarm/update?{query}", good)
    assert status == 200
    assert cluster_of(api.world.store.view()).spec.labels == {"swarmlet.rebalance": "on-join"}

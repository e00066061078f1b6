"""What entries do, verb by verb, and the sentences people read where they are refused."""

import pytest
from msgspec.structs import replace

from swarmlet.core.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StaleVersionError,
)
from swarmlet.core.limits import OUTCOMES_MAX
from swarmlet.model.change import (
    TABLES,
    Assign,
    Create,
    Exists,
    NotInUse,
    PortFree,
    Remove,
    SetDesired,
    SetNodeStatus,
    SetStatus,
    Update,
)
from swarmlet.model.config import Config
from swarmlet.model.network import Network
from swarmlet.model.node import NodeStatus
from swarmlet.model.secret import Secret
from swarmlet.model.service import GenericResource, NamedGenericResource, Service, SpecVersion
from swarmlet.model.task import Task, TaskStatus
from swarmlet.store import store as store_module
from tests.store.worlds import (
    START_MS,
    Direct,
    cluster,
    config,
    endpoint,
    network,
    node,
    port,
    secret,
    service,
    spec,
    task,
    volume,
)

CONFLICT = "rpc error: code = AlreadyExists desc = "


@pytest.fixture
def direct() -> Direct:
    return Direct()


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (
            service("sa", "s1"),
            service("sb", "S1"),
            CONFLICT + "name conflicts with an existing object: service S1 already exists",
        ),
        (secret("x0", "a"), secret("x1", "a"), CONFLICT + "secret a already exists"),
        (config("c0", "a"), config("c1", "A"), CONFLICT + "config A already exists"),
        (network("o0", "o"), network("o1", "o"), "network with name o already exists"),
        (volume("v0", "v"), volume("v1", "v"), CONFLICT + "volume v already exists"),
        (cluster("k0"), cluster("k1"), CONFLICT + "cluster default already exists"),
        (task("t0"), task("t0"), CONFLICT + "task t0 already exists"),
        (node("n0"), node("n0"), CONFLICT + "node n0 already exists"),
        (spec("sa", 1), spec("sa", 1), CONFLICT + "spec version sa@1 already exists"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_create_is_refused_with_dockers_words_when_the_name_or_id_is_taken(
    direct, first, second, text
):
    assert direct.apply(Create(obj=first)) == ""
    refusal = direct.refusal(Create(obj=second))
    assert isinstance(refusal, ConflictError)
    assert refusal.message == text


@pytest.mark.parametrize(
    ("first", "second"),
    [(node("n0", "host"), node("n1", "host")), (task("t0"), task("t1"))],
    ids=["node", "task"],
)
def test_names_of_nodes_and_tasks_may_repeat(direct, first, second):
    assert direct.apply(Create(obj=first), Create(obj=second)) == ""


def test_same_name_twice_in_one_entry_is_refused_whole(direct):
    refusal = direct.refusal(Create(obj=config("c0", "a")), Create(obj=config("c1", "a")))
    assert isinstance(refusal, ConflictError)
    assert len(direct.store.view().configs) == 0


def test_name_freed_by_an_entry_may_be_taken_by_it(direct):
    direct.apply(Create(obj=config("c0", "a")))
    assert direct.apply(Remove(table=Config, id="c0"), Create(obj=config("c1", "a"))) == ""
    assert direct.apply(Update(obj=config("c1", "b"), seen=2), Create(obj=config("c2", "a"))) == ""
    assert [one.id for one in direct.store.view().configs.scan("name", "a")] == ["c2"]


def test_update_may_not_take_a_name_but_may_change_its_case(direct):
    direct.apply(Create(obj=config("c0", "a")), Create(obj=config("c1", "b")))
    assert direct.apply(Update(obj=config("c1", "a"), seen=1)) == "conflict"
    assert direct.apply(Update(obj=config("c1", "B"), seen=1)) == ""


def test_stale_change_is_refused_with_dockers_words(direct):
    direct.apply(Create(obj=config("c0")))
    for change in (Update(obj=config("c0"), seen=7), Remove(table=Config, id="c0", seen=0)):
        refusal = direct.refusal(change)
        assert isinstance(refusal, StaleVersionError)
        assert refusal.message == "rpc error: code = Unknown desc = update out of sequence"
        assert "config c0" in refusal.remedy


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_remove_of_a_missing_row_names_its_kind(direct, table):
    words = {"SpecVersion": "spec version", "JoinToken": "join token"}
    word = words.get(table.__name__, table.__name__.lower())
    refusal = direct.refusal(Remove(table=table, id="z"))
    assert isinstance(refusal, NotFoundError)
    assert refusal.message == f"{word} z not found"
    assert direct.refusal(Create(obj=config()), guards=(Exists(table=table, id="z"),)).message == (
        f"{word} z not found"
    )


def test_row_created_and_removed_in_one_entry_never_was(direct):
    told = []
    direct.store.subscribe(told.append)
    assert direct.apply(Create(obj=config("c0")), Remove(table=Config, id="c0")) == ""
    assert told == []


def test_several_changes_of_a_row_follow_each_other_and_end_as_one_event(direct):
    direct.apply(Create(obj=task(state=512)))
    told = []
    direct.store.subscribe(told.extend)
    changes = (
        SetDesired(id="t0", desired=640, seen=1),
        SetStatus(id="t0", status=TaskStatus(state=640)),
        SetDesired(id="t0", desired=800, seen=1),
    )
    assert direct.apply(*changes) == ""
    (event,) = told
    assert (event.old.version, event.new.version) == (1, 2)
    assert (event.new.desired, event.new.status.state) == (800, 640)


# Tasks --------------------------------------------------------------------------------------------
def test_assignment_is_shared_and_stamped(direct):
    direct.apply(Create(obj=node()), Create(obj=task("t0")), Create(obj=task("t1")))
    assert direct.apply(Assign(id="t0", node_id="n0"), Assign(id="t1", node_id="n0")) == ""
    tasks, nodes = direct.store.view().tasks, direct.store.view().nodes
    one, two = tasks.get("t0"), tasks.get("t1")
    assert one.status == TaskStatus(
        state=192, at_ms=START_MS + 2, message="scheduler assigned task to node"
    )
    assert one.status is two.status
    assert one.node_id is two.node_id is nodes.get("n0").id


def test_assignment_gives_the_task_its_generic_resources(direct):
    gpu = GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value="GPU-1"))
    direct.apply(Create(obj=node()), Create(obj=task("t0")), Create(obj=task("t1")))
    with_gpu = Assign(id="t0", node_id="n0", generic_resources=(gpu,))
    assert direct.apply(with_gpu, Assign(id="t1", node_id="n0")) == ""
    tasks = direct.store.view().tasks
    assert tasks.get("t0").generic_resources == (gpu,)
    assert tasks.get("t1").generic_resources == ()
    assert tasks.get("t0").status is tasks.get("t1").status


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (task(state=64), ""),
        (task(state=64, node_id="n0"), ""),
        (task(state=64, node_id="n1"), "out-of-sequence"),
        (task(state=0), "out-of-sequence"),
        (task(state=192, node_id="n0"), "out-of-sequence"),
        (task("t1"), "not-found"),
    ],
    ids=["pending", "preset", "preset elsewhere", "new", "assigned", "gone"],
)
def test_assignment_needs_a_pending_task_without_another_node(direct, made, code):
    direct.apply(Create(obj=node()), Create(obj=made))
    assert direct.apply(Assign(id="t0", node_id="n0")) == code


def test_assignment_to_a_node_that_is_gone_is_refused(direct):
    direct.apply(Create(obj=task()))
    assert direct.refusal(Assign(id="t0", node_id="n9")).message == "node n9 not found"


@pytest.mark.parametrize(
    "verb",
    [
        SetStatus(id="t0", status=TaskStatus(state=64)),
        SetStatus(id="t0", status=TaskStatus(state=512, container_id="abc")),
        SetStatus(id="t9", status=TaskStatus(state=704)),
        SetDesired(id="t0", desired=512),
        SetDesired(id="t0", desired=384, seen=99),
        SetDesired(id="t9", desired=640, seen=1),
        SetNodeStatus(id="n0", status=NodeStatus()),
        SetNodeStatus(id="n9", status=NodeStatus(state=2)),
    ],
)
def test_verb_that_has_nothing_to_say_is_skipped(direct, verb):
    direct.apply(Create(obj=node()), Create(obj=task(state=0)))
    direct.apply(SetStatus(id="t0", status=TaskStatus(state=512, container_id="abc")))
    told = []
    direct.store.subscribe(told.append)
    assert direct.apply(verb) == ""
    assert told == []
    assert direct.store.view().tasks.get("t0").version == 2


def test_desired_state_is_refused_when_the_row_it_hangs_on_moved(direct):
    direct.apply(Create(obj=task()))
    assert direct.apply(SetDesired(id="t0", desired=640, seen=9)) == "out-of-sequence"
    assert direct.apply(SetDesired(id="t0", desired=640, seen=1)) == ""


def test_node_status_leaves_the_rest_of_the_node(direct):
    direct.apply(Create(obj=node("n0", "host")))
    direct.apply(SetNodeStatus(id="n0", status=NodeStatus(state=2, addr="10.0.0.1")))
    row = direct.store.view().nodes.get("n0")
    assert (row.status.state, row.description.hostname, row.version) == (2, "host", 2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"desired": 384}, "would go back to an earlier state"),
        ({"status": TaskStatus(state=0)}, "would go back to an earlier state"),
        ({"node_id": "n1"}, "would move to another node"),
    ],
)
def test_update_of_a_task_never_goes_back(direct, fields, words):
    made = task(node_id="n0")
    direct.apply(Create(obj=made))
    refusal = direct.refusal(Update(obj=replace(made, **fields), seen=1))
    assert isinstance(refusal, FailedPreconditionError)
    assert refusal.message == f"task t0 {words}"


# Guards -------------------------------------------------------------------------------------------
def use(direct: Direct, service_id: str, name: str, number: int = 1, **refs) -> None:
    """A service whose current spec has these references."""
    rows = service(service_id, name, spec_version=number), spec(service_id, number, **refs)
    assert direct.apply(*(Create(obj=row) for row in rows)) == ""


def refused_removal(direct: Direct, table: type, row_id: str):
    return direct.refusal(
        Remove(table=table, id=row_id), guards=(NotInUse(table=table, id=row_id),)
    )


@pytest.mark.parametrize(
    ("row", "refs", "text"),
    [
        (secret("x0", "x"), {"secrets": ("x0",)}, "secret 'x' is in use by the following"),
        (config("c0", "c"), {"configs": ("c0",)}, "config 'c' is in use by the following"),
        (config("c0", "c"), {"credential": "c0"}, "config 'c' is in use by the following"),
    ],
    ids=["secret", "config", "credential spec"],
)
def test_removal_of_what_is_in_use_names_the_services(direct, row, refs, text):
    direct.apply(Create(obj=row))
    use(direct, "sb", "web", **refs)
    refusal = refused_removal(direct, type(row), row.id)
    assert isinstance(refusal, FailedPreconditionError)
    assert refusal.message == f"{text} service: web"
    use(direct, "sa", "api", **refs)
    assert refused_removal(direct, type(row), row.id).message == f"{text} services: api, web"
    for number in range(30):
        use(direct, f"s{number}", f"z{number}", **refs)
    assert refused_removal(direct, type(row), row.id).message.endswith(", and 12 more")


@pytest.mark.parametrize("target", ["o0", "net"], ids=["id", "name"])
def test_network_in_use_is_kept_however_the_spec_names_it(direct, target):
    direct.apply(Create(obj=network("o0", "net")))
    use(direct, "sa", "web", networks=(target,))
    refusal = refused_removal(direct, Network, "o0")
    assert refusal.message == "network o0 is in use by service sa"


def test_only_the_current_spec_of_a_service_that_is_there_uses_anything(direct):
    direct.apply(Create(obj=secret("x0")))
    use(direct, "sa", "web", secrets=("x0",))
    direct.apply(Create(obj=spec("sa", 2)), Create(obj=spec("gone", 1, secrets=("x0",))))
    assert refused_removal(direct, Secret, "x0").code == "failed-precondition"
    moved = service("sa", "web", spec_version=2, previous_spec_version=1)
    direct.apply(Update(obj=moved, seen=-1))
    guards = (NotInUse(table=Secret, id="x0"),)
    assert direct.apply(Remove(table=Secret, id="x0"), guards=guards) == ""


def test_use_guard_of_a_row_that_is_gone_is_not_found(direct):
    assert refused_removal(direct, Secret, "x0").message == "secret x0 not found"


@pytest.mark.parametrize("where", ["wanted", "given"])
@pytest.mark.parametrize(
    ("theirs", "ours", "how"),
    [
        ("ingress", "ingress", "an ingress port"),
        ("ingress", "host", "an ingress port"),
        ("host", "ingress", "a host-published port"),
        ("", "host", "an ingress port"),
        ("host", "host", None),
    ],
)
def test_published_port_collides_unless_both_are_on_hosts(direct, where, theirs, ours, how):
    published = port(8080, theirs, protocol="")
    if where == "wanted":
        use(direct, "sa", "web", ports=(published,))
    else:
        direct.apply(Create(obj=service("sa", "web", endpoint=endpoint(published))))
    guard = PortFree(service_id="sb", protocol="tcp", port=8080, mode=ours)
    if how is None:
        assert direct.apply(Create(obj=config()), guards=(guard,)) == ""
        return
    refusal = direct.refusal(Create(obj=config()), guards=(guard,))
    assert isinstance(refusal, InvalidArgumentError)
    assert refusal.message == f"port '8080' is already in use by service 'web' (sa) as {how}"


@pytest.mark.parametrize(
    "guard",
    [
        PortFree(service_id="sa", protocol="tcp", port=8080, mode="ingress"),
        PortFree(service_id="sb", protocol="udp", port=8080, mode="ingress"),
        PortFree(service_id="sb", protocol="tcp", port=8081, mode="ingress"),
    ],
    ids=["own", "other protocol", "other port"],
)
def test_port_is_free_elsewhere(direct, guard):
    use(direct, "sa", "web", ports=(port(8080),))
    assert direct.apply(Create(obj=config()), guards=(guard,)) == ""


# Outcomes -----------------------------------------------------------------------------------------
def test_oldest_outcomes_are_forgotten(direct, monkeypatch):
    assert OUTCOMES_MAX >= 10_000
    monkeypatch.setattr(store_module, "OUTCOMES_MAX", 3)
    for number in range(5):
        direct.apply(Create(obj=config(f"c{number}")))
    assert [proposal for proposal, _ in direct.outcomes()] == [103, 104, 105]


def test_repeated_entry_is_applied_once_and_refused_again(direct):
    assert direct.apply(Create(obj=config("c0"))) == ""
    assert direct.apply(Create(obj=config("c1")), repeat=101) == ""
    assert direct.store.view().configs.get("c1") is None
    assert direct.apply(Create(obj=config("c0"))) == "conflict"
    assert direct.apply(Create(obj=config("c2")), repeat=103) == "conflict"
    assert direct.store.index == 4


def test_write_may_build_on_a_proposal_by_its_id(direct):
    direct.apply(Create(obj=config("c0")))
    assert direct.apply(Update(obj=config("c0", "b"), seen=-101)) == ""
    assert direct.apply(Update(obj=config("c0", "c"), seen=-101)) == "out-of-sequence"
    assert direct.apply(Update(obj=config("c0", "c"), seen=-102)) == ""
    assert direct.apply(Update(obj=config("c0", "d"), seen=-555)) == "out-of-sequence"


def test_entries_are_applied_in_order(direct):
    direct.apply(Create(obj=config("c0")))
    with pytest.raises(AssertionError):
        direct.store.apply(1, b"")


def test_kinds_used_here_are_tables():
    assert {Config, Network, Secret, Service, SpecVersion, Task} <= set(TABLES)


def test_unsubscribing_during_an_event_ends_only_that_subscriber(direct):
    told = []

    def once(events):
        told.append("once")
        end()

    end = direct.store.subscribe(once)
    direct.store.subscribe(lambda events: told.append("always"))
    direct.apply(Create(obj=config("c0")))
    direct.apply(Create(obj=config("c1")))
    assert told == ["once", "always", "always"]

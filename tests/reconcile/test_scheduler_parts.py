"""The scheduler's parts: what a spec needs, which filter fails, its words, shares, failures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.ids import ServiceID
from swarmlet.model.node import NodeState
from swarmlet.model.service import (
    DiscreteGenericResource,
    EndpointSpec,
    GenericResource,
    Limit,
    NamedGenericResource,
    Placement,
    PlacementPreference,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
)
from swarmlet.reconcile.scheduler.filters import (
    Filter,
    Fixed,
    Needs,
    counts_of,
    explain,
    failing,
    missing_limits,
    needs_of,
)
from swarmlet.reconcile.scheduler.group import FAILURES_KEPT_MAX, Group
from swarmlet.reconcile.scheduler.nodeset import NodeState as Counted
from swarmlet.reconcile.scheduler.pool import OUTDATED_MAX, POOLS_MAX, PoolKey, Pools
from swarmlet.reconcile.scheduler.spread import path_of, share_out, spread_of
from tests.reconcile.world import node, replace, service_spec

GPU = GenericResource(discrete_resource_spec=DiscreteGenericResource(kind="gpu", value=2))
SSD = [GenericResource(named_resource_spec=NamedGenericResource(kind="ssd", value=v)) for v in "ab"]


def test_needs_are_reservations_and_host_ports_and_placement():
    ports = [
        PortConfig(target_port=1, published_port=81, publish_mode="host", protocol="udp"),
        PortConfig(target_port=2, published_port=80, publish_mode="host"),
        PortConfig(target_port=3, published_port=0, publish_mode="host"),
        PortConfig(target_port=4, published_port=82, publish_mode="ingress"),
        PortConfig(target_port=5, published_port=83),
    ]
    spec = service_spec(
        ports=EndpointSpec(ports=ports),
        resources=ResourceRequirements(
            limits=Limit(nano_cpus=99, memory_bytes=99),
            reservations=Resources(nano_cpus=5, memory_bytes=6, generic_resources=[GPU]),
        ),
        placement=Placement(
            constraints=["node.role==worker", "node.id!=x"],
            platforms=[Platform(os="Linux", architecture="x86_64"), Platform()],
        ),
    )
    assert needs_of(spec) == Needs(
        cpu_nano=5,
        memory_b=6,
        generic=(("gpu", 2),),
        ports=(("tcp", 80), ("udp", 81)),
        fixed=Fixed(
            runtimes=("process",),
            limits=("cpu", "memory"),
            constraints=("node.id!=x", "node.role==worker"),
            platforms=(("", ""), ("linux", "amd64")),
        ),
    )


def test_needs_are_nothing_when_the_spec_says_nothing():
    assert needs_of(replace(service_spec(), task_template=TaskSpec())) == Needs()
    limits_only = ResourceRequirements(limits=Limit(nano_cpus=9))
    assert needs_of(service_spec(resources=limits_only)).cpu_nano == 0


@pytest.mark.parametrize(
    ("image", "runtimes"),
    [("host", ("process",)), ("hosts", ("docker", "oci")), ("nginx:1", ("docker", "oci"))],
)
def test_image_decides_the_runtimes(image, runtimes):
    assert needs_of(service_spec(image=image)).fixed.runtimes == runtimes


def test_counts_add_numbers_and_names():
    assert counts_of([GPU, *SSD, GPU]) == {"gpu": 4, "ssd": 2}


NEEDS = Fixed(
    runtimes=("process",),
    limits=("memory", "pids"),
    constraints=("node.labels.zone==eu",),
    platforms=(("linux", "amd64"),),
)
FITTING = {"labels": {"zone": "EU"}}


@pytest.mark.parametrize(
    ("failed", "fields"),
    [
        (None, {}),
        (None, {"availability": ""}),
        (None, {"arch": "AMD64"}),
        (None, {"runtimes": "docker,process"}),
        (Filter.READY, {"state": NodeState.DOWN, "labels": {}}),
        (Filter.READY, {"state": NodeState.UNKNOWN}),
        (Filter.READY, {"state": NodeState.DISCONNECTED}),
        (Filter.READY, {"availability": "pause"}),
        (Filter.READY, {"availability": "drain"}),
        (Filter.RUNTIME, {"runtimes": "docker,oci", "labels": {}}),
        (Filter.RUNTIME, {"runtimes": ""}),
        (Filter.RUNTIME, {"runtimes": "processes"}),
        (None, {"engine_labels": {"swarmlet.limits.process": "pids,memory"}}),
        (None, {"engine_labels": {"swarmlet.limits.docker": ""}}),
        (Filter.LIMIT, {"engine_labels": {"swarmlet.limits.process": "memory"}, "labels": {}}),
        (Filter.LIMIT, {"engine_labels": {"swarmlet.limits.process": ""}}),
        (Filter.CONSTRAINT, {"labels": {}, "arch": "arm64"}),
        (Filter.PLATFORM, {"arch": "aarch64"}),
        (Filter.PLATFORM, {"arch": ""}),
    ],
)
def test_failing_names_the_first_filter_that_a_node_fails(failed, fields):
    assert failing(node(**{**FITTING, **fields}), NEEDS) is failed


def test_limits_are_asked_of_the_runtimes_that_will_do():
    labels = {"swarmlet.limits.process": "memory", "swarmlet.limits.oci": "cpu,memory,pids"}
    both = node(runtimes="process,oci", engine_labels=labels)
    limits = ("cpu", "memory", "pids")
    assert missing_limits(both, Fixed(("process",), limits)) == ("cpu", "pids")
    assert missing_limits(both, Fixed(("docker", "oci"), limits)) == ()
    assert missing_limits(both, Fixed((), (*limits, "swap"))) == ("swap",)


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        (None, ()),
        (ResourceRequirements(limits=Limit(pids=-1), swap_bytes=-1, memory_swappiness=-1), ()),
        (ResourceRequirements(reservations=Resources(nano_cpus=1, memory_bytes=1)), ()),
        (ResourceRequirements(limits=Limit(nano_cpus=1, pids=9)), ("cpu", "pids")),
        (ResourceRequirements(limits=Limit(memory_bytes=1), swap_bytes=0), ("memory", "swap")),
        (ResourceRequirements(memory_swappiness=0), ("swap",)),
    ],
)
def test_limits_are_needed_as_they_are_asked_for(resources, limits):
    spec = ServiceSpec(task_template=TaskSpec(resources=resources))
    assert needs_of(spec).fixed.limits == limits


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ((("", ""),), True),
        ((("linux", ""),), True),
        ((("", "amd64"),), True),
        ((("windows", "amd64"), ("linux", "amd64")), True),
        ((("windows", "amd64"), ("linux", "arm64")), False),
        ((("windows", ""),), False),
    ],
)
def test_platform_fits_when_any_wanted_one_does(wanted, fits):
    assert (failing(node(), Fixed(platforms=wanted)) is None) is fits


def test_platform_does_not_fit_a_node_that_tells_none():
    silent = node()
    description = replace(silent.description, platform=Platform())
    unknown = replace(silent, description=description)
    assert failing(unknown, Fixed(platforms=(("", ""),))) is Filter.PLATFORM
    assert failing(unknown, Fixed()) is None


def test_constraint_that_cannot_be_parsed_fits_nobody():
    assert failing(node(), Fixed(constraints=("nonsense",))) is Filter.CONSTRAINT


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({}, "no suitable node"),
        ({Filter.READY: 0}, "no suitable node"),
        ({Filter.READY: 1}, "no suitable node (1 node not available for new tasks)"),
        (
            {Filter.CONSTRAINT: 1, Filter.RESOURCE: 2},
            "no suitable node (insufficient resources on 2 nodes; "
            "scheduling constraints not satisfied on 1 node)",
        ),
        (
            {Filter.MAX_REPLICAS: 2, Filter.HOST_PORT: 2, Filter.PLATFORM: 2, Filter.READY: 2},
            "no suitable node (2 nodes not available for new tasks; unsupported platform on "
            "2 nodes; host-mode port already in use on 2 nodes; "
            "max replicas per node limit exceed on 2 nodes)",
        ),
        (
            {Filter.RUNTIME: 3},
            "no suitable node (no docker or oci runtime, which the image needs, on 3 nodes)",
        ),
        ({Filter.LIMIT: 2}, "no suitable node (no runtime that can limit cpu and swap on 2 nodes)"),
    ],
)
def test_explain_counts_nodes_and_starts_with_what_most_fail(counts, sentence):
    needs = Needs(fixed=Fixed(runtimes=("docker", "oci"), limits=("cpu", "swap")))
    assert explain(counts, needs) == sentence


def test_node_that_shrank_has_no_room_but_for_tasks_that_ask_for_none():
    state = Counted(node(cpu_nano=4, memory_b=4))
    state.hold(Needs(cpu_nano=3, memory_b=1, ports=(("tcp", 80),)))
    state.change(node(cpu_nano=2, memory_b=4))
    assert state.lacks(Needs(cpu_nano=1)) is Filter.RESOURCE
    assert state.lacks(Needs(memory_b=3)) is None
    assert state.lacks(Needs(memory_b=4)) is Filter.RESOURCE
    assert state.lacks(Needs(generic=(("gpu", 1),))) is Filter.RESOURCE
    assert state.lacks(Needs(ports=(("tcp", 80),))) is Filter.HOST_PORT
    assert state.lacks(Needs(ports=(("udp", 80),))) is None
    state.hold(Needs(cpu_nano=3, memory_b=1, ports=(("tcp", 80),)), -1)
    assert state.lacks(Needs(cpu_nano=2, memory_b=4, ports=(("tcp", 80),))) is None


def test_port_is_free_when_the_last_of_its_holders_gave_it_back():
    state, needs = Counted(node()), Needs(ports=(("tcp", 80),))
    state.hold(needs)
    state.hold(needs)
    state.hold(needs, -1)
    assert state.lacks(needs) is Filter.HOST_PORT
    state.hold(needs, -1)
    assert state.lacks(needs) is None


def test_pools_keep_the_last_used_and_what_they_share():
    nodes = {"n1": Counted(node())}
    pools = Pools(nodes)
    first = pools.pool(PoolKey(Needs(), (), False))
    for number in range(1, POOLS_MAX):
        pools.pool(PoolKey(Needs(cpu_nano=number), (), False))
    assert pools.pool(PoolKey(Needs(), (), False)) is first
    pools.pool(PoolKey(Needs(cpu_nano=POOLS_MAX, fixed=Fixed(runtimes=("oci",))), (), False))
    assert len(pools) == POOLS_MAX
    assert pools.peek(PoolKey(Needs(), (), False)) is first
    assert pools.peek(PoolKey(Needs(cpu_nano=1), (), False)) is None
    assert len({id(pool.passing) for pool in pools}) == 2
    for number in range(POOLS_MAX):
        pools.pool(PoolKey(Needs(memory_b=number + 1), (), False))
    assert len({id(pool.passing) for pool in pools}) == 1
    assert pools.pool(PoolKey(Needs(fixed=Fixed(runtimes=("oci",))), (), False)).passing.failed == {
        Filter.RUNTIME: 1
    }


def test_pools_do_not_grow_with_what_happens_to_nodes():
    nodes = {f"n{i}": Counted(node(f"n{i}", labels={"zone": f"z{i % 2}"})) for i in range(4)}
    pools, spread = Pools(nodes), ("node.labels.zone",)
    keys = [PoolKey(Needs(), way, packed) for way in ((), spread) for packed in (False, True)]
    found = [pools.pool(key) for key in keys]
    nodes["n0"].total = 1  # so that the entry of n3 is not the first to be looked at
    for number in range(1_000):
        nodes["n3"].total = 5 + number % 2
        pools.recheck("n3")
        nodes["n2"].total = 9 - number // 200
        pools.offer(nodes["n2"])
    for pool, key in zip(found, keys, strict=True):
        assert len(pool) <= 3 * (2 * len(nodes) + OUTDATED_MAX)
        fresh = Pools(nodes).pool(key)
        for leaf in ((),) if not key.spread else (("z0",), ("z1",)):
            order = [[p.take(leaf) for _ in range(5)] for p in (pool, fresh)]
            assert order[0] == order[1]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(0, 60))
def test_share_out_adds_one_at_a_time_to_the_lowest(counts, k):
    level = list(counts)
    for _ in range(k):
        level[min(range(len(level)), key=lambda i: (level[i], i))] += 1
    shares = share_out(counts, k)
    assert sum(shares) == k
    assert min(shares) >= 0
    assert sorted(c + s for c, s in zip(counts, shares, strict=True)) == sorted(level)


def preference(text):
    return PlacementPreference(spread=SpreadOver(spread_descriptor=text))


def test_spread_takes_labels_and_ignores_the_rest():
    preferences = [
        preference("node.labels.Zone"),
        preference("node.hostname"),
        PlacementPreference(),
        preference(" ENGINE.labels.disk "),
    ]
    spread = spread_of(preferences)
    assert spread == ("node.labels.Zone", "ENGINE.labels.disk")
    there = node(labels={"Zone": "eu", "zone": "us"}, engine_labels={"disk": "ssd"})
    assert path_of(there, spread) == ("eu", "ssd")
    assert path_of(node(), spread) == ("", "")


def group():
    return Group((ServiceID("web"), 1), service_spec())


@pytest.mark.parametrize(
    ("failures", "age_ms", "faulty"),
    [
        (4, 0, []),
        (5, 0, [("n1", 5)]),
        (6, 299_999, [("n1", 6)]),
        (6, 300_000, []),
        (FAILURES_KEPT_MAX + 9, 0, [("n1", FAILURES_KEPT_MAX)]),
    ],
)
def test_node_is_faulty_after_five_failures_in_five_minutes(failures, age_ms, faulty):
    web = group()
    for _ in range(failures):
        web.failed("n1", 1_000)
    web.failed("n2", 1_000)
    assert list(web.faulty_nodes(1_000 + age_ms)) == faulty


def test_failures_are_forgotten_when_all_of_a_node_are_too_old():
    web = group()
    web.failed("n1", 1)
    assert list(web.faulty_nodes(10**9)) == []
    assert web.failures == {}


def test_groups_that_need_most_take_their_turn_first():
    def of(name, **reserved):
        resources = ResourceRequirements(reservations=Resources(**reserved))
        return Group((ServiceID(name), 1), service_spec(resources=resources)).sort_key

    keys = [
        of("d", nano_cpus=2),
        of("e", nano_cpus=1, memory_bytes=9),
        of("f", nano_cpus=1, memory_bytes=8),
        of("a"),
        of("b"),
    ]
    assert sorted(keys) == keys

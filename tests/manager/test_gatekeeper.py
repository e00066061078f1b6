"""Every route against every kind of caller."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import ForbiddenError, SwarmError, UnauthorizedError
from swarmlet.core.identity import Identity
from swarmlet.core.ids import ClusterID, NodeID
from swarmlet.core.limits import RENEWABLE_AFTER_EXPIRY_MS
from swarmlet.manager.gatekeeper import CertificateGatekeeper, Standing, StoreGatekeeper
from swarmlet.model.change import Create, Remove
from swarmlet.model.cluster import Cluster, RemovedCertificate, SwarmSpec
from swarmlet.model.node import Node, NodeCertificate
from swarmlet.wire.routes import (
    API,
    CERTIFICATE,
    HELLO,
    JOIN,
    LOGS,
    MEMBER_JOIN,
    MEMBER_LEAVE,
    RAFT,
    RENEW,
    ROOT,
    ROUTES,
    SESSION,
    SNAPSHOT,
    STREAM,
    TASK_STREAM,
    UNLOCK_KEY,
    PortRoute,
)
from tests.store.worlds import START_MS, Direct, StepClock, node
from tests.wire.identities import SwarmCA

HOUR_MS = 3_600_000
CLUSTER = ClusterID("c")
OPEN = {HELLO, ROOT, JOIN, CERTIFICATE}
NODES = {*OPEN, RENEW, SESSION, LOGS, STREAM}
MEMBERS = {RAFT, SNAPSHOT}
MANAGERS = {*NODES, *MEMBERS, API, MEMBER_JOIN, MEMBER_LEAVE, TASK_STREAM, UNLOCK_KEY}


def peer(node_id: str, role: str, **fields: object) -> Identity:
    given = {
        "node_id": NodeID(node_id),
        "role": role,
        "cluster_id": CLUSTER,
        "begins_ms": START_MS - HOUR_MS,
        "ends_ms": START_MS + HOUR_MS,
    }
    return Identity(**{**given, **fields})


EXPIRED = {"ends_ms": START_MS - 1}
LONG_GONE = {"begins_ms": 0, "ends_ms": START_MS - RENEWABLE_AFTER_EXPIRY_MS}
EARLY = {"begins_ms": START_MS + 1}
OTHER = {"cluster_id": ClusterID("other")}

# who -> what they show, and the routes that let them in
CALLERS: dict[str, tuple[Identity | None, set[PortRoute]]] = {
    "nobody": (None, OPEN),
    "worker": (peer("worker", "worker"), NODES),
    "manager": (peer("manager", "manager"), MANAGERS),
    "worker that was promoted and has not renewed": (peer("manager", "worker"), NODES),
    "manager that was demoted and has not renewed": (peer("worker", "manager"), NODES),
    "expired worker": (peer("worker", "worker", **EXPIRED), {RENEW, CERTIFICATE}),
    "expired manager": (peer("manager", "manager", **EXPIRED), {RENEW, CERTIFICATE, *MEMBERS}),
    "manager expired for a year": (peer("manager", "manager", **LONG_GONE), {RENEW, CERTIFICATE}),
    "worker before its time": (peer("worker", "worker", **EARLY), set()),
    "manager before its time": (peer("manager", "manager", **EARLY), set()),
    "removed worker": (peer("removed", "worker"), set()),
    "removed manager": (peer("removed", "manager"), set()),
    "removed and expired": (peer("removed", "worker", **EXPIRED), set()),
    "worker of another swarm": (peer("worker", "worker", **OTHER), set()),
    "manager of another swarm": (peer("manager", "manager", **OTHER), set()),
    "certificate without a role": (peer("worker", ""), OPEN),
    "certificate of a role nobody knows": (peer("worker", "admin"), set()),
}


@pytest.fixture(scope="module")
def gatekeeper():
    direct = Direct()
    for row_id, role in (("worker", "worker"), ("manager", "manager"), ("removed", "worker")):
        assert direct.apply(Create(obj=node(row_id, role=role))) == ""
    assert direct.apply(Remove(table=Node, id="removed")) == ""
    return StoreGatekeeper(direct.store, CLUSTER, StepClock())


def test_matrix_knows_every_route():
    assert set(ROUTES) == MANAGERS


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("who", CALLERS)
def test_caller_is_let_in_where_the_matrix_says_so_and_nowhere_else(gatekeeper, who, route):
    shown, allowed = CALLERS[who]
    if route in allowed:
        gatekeeper.admit(shown, route)
        return
    with pytest.raises((UnauthorizedError, ForbiddenError)) as refused:
        gatekeeper.admit(shown, route)
    assert len(refused.value.message) > 20


@pytest.mark.parametrize(
    ("who", "route", "sentence"),
    [
        ("nobody", SESSION, "none was shown"),
        ("worker", API, "this certificate is a worker's"),
        ("manager that was demoted and has not renewed", API, "was demoted"),
        ("expired worker", SESSION, "expired"),
        ("worker before its time", RENEW, "only valid from"),
        ("removed worker", HELLO, "was removed"),
        ("removed and expired", RENEW, "was removed"),
        ("worker of another swarm", ROOT, "for swarm other; this is swarm c"),
    ],
)
def test_refusal_says_what_is_wrong(gatekeeper, who, route, sentence):
    with pytest.raises(SwarmError, match=sentence):
        gatekeeper.admit(CALLERS[who][0], route)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("who", CALLERS)
def test_manager_without_a_store_judges_the_certificate_alone(gatekeeper, who, route):
    shown, allowed = CALLERS[who]
    blind = CertificateGatekeeper(CLUSTER, StepClock())
    if route in allowed:
        blind.admit(shown, route)
    elif "removed" not in who and "demoted" not in who:
        with pytest.raises((UnauthorizedError, ForbiddenError)):
            blind.admit(shown, route)


# What a manager makes of callers its store does not know, or knows otherwise: its store may be
# behind. (who, route) -> the standings that let them in.
BEHIND = {
    ("unknown worker", SESSION): {Standing.FOLLOWS, Standing.ALONE},
    ("unknown manager", RAFT): {Standing.FOLLOWS, Standing.ALONE},
    ("unknown manager", MEMBER_JOIN): {Standing.FOLLOWS, Standing.ALONE},
    ("removed worker", SESSION): set(),
    ("removed manager", RAFT): set(),
    ("removed manager", MEMBER_JOIN): set(),
    ("manager that is a worker here", RAFT): set(),
    ("manager that is a worker here", SNAPSHOT): set(),
    ("manager that is a worker here", MEMBER_JOIN): {Standing.FOLLOWS},
    ("manager that is a worker here", API): {Standing.FOLLOWS},
    ("manager that is a worker here", SESSION): set(Standing),
    ("manager with an older certificate than its worker's", RAFT): set(),
    ("manager with a certificate since", RAFT): {Standing.ALONE},
    ("manager with a certificate since", SNAPSHOT): {Standing.ALONE},
    ("manager with a certificate since", MEMBER_LEAVE): {Standing.FOLLOWS},
    ("manager whose certificate nobody knows", RAFT): set(),
    ("worker", API): set(),
    ("worker", RAFT): set(),
    ("manager", RAFT): set(Standing),
}
SHOWN = {
    "unknown worker": peer("new", "worker"),
    "unknown manager": peer("new", "manager"),
    "removed worker": peer("removed", "worker"),
    "removed manager": peer("removed", "manager"),
    "manager that is a worker here": peer("worker", "manager"),
    "manager with an older certificate than its worker's": peer(
        "worker", "manager", begins_ms=START_MS - HOUR_MS - 1000
    ),
    "manager with a certificate since": peer(
        "worker", "manager", begins_ms=START_MS - HOUR_MS + 1000
    ),
    "manager whose certificate nobody knows": peer("bare", "manager"),
    "worker": peer("worker", "worker"),
    "manager": peer("manager", "manager"),
}


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize(("who", "route"), BEHIND, ids=lambda part: getattr(part, "name", part))
def test_store_that_may_be_behind_is_not_the_last_word(standing, who, route):
    direct = Direct()
    removed = RemovedCertificate(node_id="removed")
    row = Cluster(id=CLUSTER, spec=SwarmSpec(), removed_certificates=(removed,))
    issued = SwarmCA(START_MS).credentials("worker").chain_pem  # backdated by an hour
    nodes = (
        node("worker", role="worker", certificate=NodeCertificate(certificate=issued)),
        node("bare", role="worker"),
        node("manager", role="manager"),
    )
    assert direct.apply(*(Create(obj=each) for each in (row, *nodes))) == ""
    gatekeeper = StoreGatekeeper(direct.store, CLUSTER, StepClock(), lambda: standing)
    if standing in BEHIND[who, route]:
        gatekeeper.admit(SHOWN[who], route)
        return
    with pytest.raises(ForbiddenError):
        gatekeeper.admit(SHOWN[who], route)


@pytest.mark.parametrize("standing", Standing)
def test_empty_store_judges_nobody(standing):
    gatekeeper = StoreGatekeeper(Direct().store, CLUSTER, StepClock(), lambda: standing)
    for route in ROUTES:
        gatekeeper.admit(SHOWN["unknown manager"], route)
    with pytest.raises(UnauthorizedError):
        gatekeeper.admit(peer("new", "manager", **OTHER), RAFT)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(ROUTES),
    st.builds(
        Identity,
        node_id=st.sampled_from(["worker", "manager", "removed", "", "Worker"]),
        role=st.sampled_from(["worker", "manager"]),
        cluster_id=st.sampled_from(["c", "", "C", "c "]),
        begins_ms=st.integers(START_MS - 3, START_MS + 3),
        ends_ms=st.integers(START_MS - 3, START_MS + 3),
        fingerprint=st.binary(max_size=2),
    ),
)
def test_whoever_is_let_in_is_in_the_swarm_and_within_its_dates(gatekeeper, route, shown):
    try:
        gatekeeper.admit(shown, route)
    except (UnauthorizedError, ForbiddenError):
        return
    assert shown.node_id in ("worker", "manager")
    assert shown.cluster_id == "c"
    assert shown.begins_ms <= START_MS
    assert shown.ends_ms >= START_MS or route in (RENEW, CERTIFICATE, *MEMBERS)
    assert route not in MANAGERS - NODES or shown.node_id == shown.role == "manager"

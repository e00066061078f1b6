"""The node port's routes and who may call each: the whole matrix."""

from typing import Final

import msgspec

ANYBODY: Final = frozenset({"", "worker", "manager"})
NODES: Final = frozenset({"worker", "manager"})
MANAGERS: Final = frozenset({"manager"})


class PortRoute(msgspec.Struct, frozen=True, kw_only=True):
    """`roles`: whose certificates are let in, "" for a caller without one. `allows_expired`: an
    expired certificate still says who calls (nothing else may let one in). `needs_leader`: a
    manager that does not lead passes the call on, once, as the caller's forwarder."""

    name: str
    method: str
    path: str
    roles: frozenset[str]
    allows_expired: bool = False
    needs_leader: bool = False


HELLO: Final = PortRoute(name="hello", method="GET", path="/node/v1/hello", roles=ANYBODY)
ROOT: Final = PortRoute(name="root", method="GET", path="/node/v1/root", roles=ANYBODY)
JOIN: Final = PortRoute(
    name="join", method="POST", path="/node/v1/join", roles=ANYBODY, needs_leader=True
)
RENEW: Final = PortRoute(
    name="renew",
    method="POST",
    path="/node/v1/renew",
    roles=NODES,
    allows_expired=True,
    needs_leader=True,
)
CERTIFICATE: Final = PortRoute(
    name="certificate",
    method="GET",
    path="/node/v1/certificates/{node_id}",
    roles=ANYBODY,
    allows_expired=True,
    needs_leader=True,
)
SESSION: Final = PortRoute(name="session", method="GET", path="/node/v1/session", roles=NODES)
LOGS: Final = PortRoute(name="logs", method="GET", path="/node/v1/logs/{subscription}", roles=NODES)
STREAM: Final = PortRoute(
    name="stream", method="GET", path="/node/v1/streams/{stream_id}", roles=NODES
)
API: Final = PortRoute(
    name="api", method="*", path="/node/v1/api/{path}", roles=MANAGERS, needs_leader=True
)

RAFT: Final = PortRoute(
    name="raft", method="GET", path="/node/v1/raft", roles=MANAGERS, allows_expired=True
)
SNAPSHOT: Final = PortRoute(
    name="snapshot",
    method="POST",
    path="/node/v1/raft/snapshot",
    roles=MANAGERS,
    allows_expired=True,
)
MEMBER_JOIN: Final = PortRoute(
    name="member-join",
    method="POST",
    path="/node/v1/raft/members",
    roles=MANAGERS,
    needs_leader=True,
)
MEMBER_LEAVE: Final = PortRoute(
    name="member-leave",
    method="POST",
    path="/node/v1/raft/leave",
    roles=MANAGERS,
    needs_leader=True,
)
TASK_STREAM: Final = PortRoute(
    name="task-stream", method="GET", path="/node/v1/task-streams", roles=MANAGERS
)
UNLOCK_KEY: Final = PortRoute(
    name="unlock-key",
    method="GET",
    path="/node/v1/unlock-key",
    roles=MANAGERS,
    needs_leader=True,
)

ROUTES: Final = (
    HELLO,
    ROOT,
    JOIN,
    RENEW,
    CERTIFICATE,
    SESSION,
    LOGS,
    STREAM,
    API,
    RAFT,
    SNAPSHOT,
    MEMBER_JOIN,
    MEMBER_LEAVE,
    TASK_STREAM,
    UNLOCK_KEY,
)
CA_ROUTES: Final = (JOIN, RENEW, CERTIFICATE)
API_PREFIX: Final = API.path.removesuffix("/{path}")

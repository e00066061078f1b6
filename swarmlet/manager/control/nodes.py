"""The swarm's nodes: what users want of one, and forgetting one."""

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from msgspec.structs import replace

from swarmlet.core.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    StaleVersionError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.limits import (
    ENTRY_CHANGES_MAX,
    MS_PER_S,
    NS_PER_MS,
    NS_PER_S,
    RENEWABLE_AFTER_EXPIRY_MS,
)
from swarmlet.manager.control.base import ControlBase, check_version, worked_out
from swarmlet.manager.group import check_removable, seats_of
from swarmlet.model.change import Change, Remove, SetStatus, Update
from swarmlet.model.cluster import Cluster, RemovedCertificate
from swarmlet.model.node import DrainPlan, Node, NodeSpec, NodeState
from swarmlet.model.task import TaskState
from swarmlet.model.validate import check_node
from swarmlet.model.validate_service import not_negative
from swarmlet.model.view import View, cluster_of
from swarmlet.reconcile.drain import Move, moves_of
from swarmlet.reconcile.roles import DRAIN, MANAGER, WORKER

ORPHANED_MESSAGE: Final = "Task belonged to a node that has been deleted"  # SwarmKit node.go
REMOVED_KEPT_MS: Final = 7 * 24 * 3_600 * 1_000  # beyond its end; SwarmKit controlapi/cluster.go
REMOVED_MAX: Final = 5_000  # removed nodes remembered, some 200 KB of the cluster's row
DEADLINE_MAX_NS: Final = 365 * 24 * 3_600 * NS_PER_S
TRIES_MAX: Final = 10  # against others who write the node's row at the same moment
_BESIDE_ORPHANS: Final = 2  # the cluster's row and the node's


class NoMemberError(SwarmError):
    """A manager by its role that is no member of the Raft group."""

    code, http_status = "no-such-member", 404


class NodeVerbs(ControlBase):
    """Writes the nodes' specs, and removes their rows."""

    async def update_node(self, ref: str, version: int, spec: NodeSpec) -> None:
        """Name, labels, availability and role. A promoted node becomes a manager by itself, a
        demoted one leaves the Raft group first: `reconcile.roles`. A drain that is set here is a
        plain one; the plan of one that goes on stays."""
        check_node(spec)
        view = await self.read()
        node = self.find_node(view, ref)
        if node.spec.role == MANAGER and spec.role == WORKER:
            self._check_demotable(view, node)
        check_version(version, node.version, f"node {ref}")
        goes_on = node.spec.availability == spec.availability == DRAIN
        row = replace(node, spec=spec, drain=node.drain if goes_on else None)
        await self._commit(f"node {ref}", [Update(obj=row, seen=version)])

    async def drain_node(self, ref: str, *, deadline_ns: int = 0) -> tuple[Move, ...]:
        """Let no new tasks onto the node, and have the replacements of those it has run before they
        stop, where their services allow it; until the deadline from now (0: none). A drain that is
        under way gets the new deadline. What becomes of each task, as it looks now."""
        not_negative(deadline_ns, "DeadlineNs")
        if deadline_ns > DEADLINE_MAX_NS:
            raise InvalidArgumentError("The deadline of a drain is a year away at most.")
        for _ in range(TRIES_MAX):
            before, now_ms = await self.read(hold=True), self.now_ms()
            node = self.find_node(before, ref)
            row = _draining(node, -(-deadline_ns // NS_PER_MS), now_ms)
            try:
                await self._commit(f"node {ref}", [Update(obj=row, seen=node.version)])
            except StaleVersionError:
                continue  # the dispatcher's word on the node, or another user's
            return await worked_out(moves_of(before, node, now_ms))
        raise _overtaken(node)

    async def drain_moves(self, ref: str) -> tuple[Move, ...]:
        """What `drain_node` would do, without doing it."""
        view = await self.read(hold=True)
        return await worked_out(moves_of(view, self.find_node(view, ref), self.now_ms()))

    async def remove_node(self, ref: str, *, force: bool) -> None:
        """Forget a node that is down: its certificate is refused, its tasks are orphaned."""
        for _ in range(TRIES_MAX):
            view = await self.read()
            node = self.find_node(view, ref)
            self._check_removable(node, force=force)
            try:
                await self._forget(view, node, ref)
            except StaleVersionError:
                continue  # the node's status, or the cluster's row
            return
        raise _overtaken(node)

    async def _forget(self, view: View, node: Node, ref: str) -> None:
        """Raises StaleVersionError where its row or the cluster's is another by now."""
        cluster = cluster_of(view)
        orphans = self._orphans(view, node)
        if len(orphans) > ENTRY_CHANGES_MAX - _BESIDE_ORPHANS:
            await self._store.batch(orphans)
            orphans = []
        now_ms = self._env.clock.wall_ms()
        removed = RemovedCertificate(
            node_id=node.id, expires_ms=_refused_until_ms(cluster, node, now_ms)
        )
        refused = still_refused((*cluster.removed_certificates, removed), now_ms)
        row = replace(cluster, removed_certificates=refused)
        await self._commit(
            f"node {ref}",
            [
                *orphans,
                Update(obj=row, seen=cluster.version),
                Remove(table=Node, id=node.id, seen=node.version),
            ],
        )

    def _check_demotable(self, view: View, node: Node) -> None:
        """Raises FailedPreconditionError, or NoMemberError (SwarmKit controlapi/node.go)."""
        others = [
            one
            for one in view.nodes.scan("role", MANAGER)
            if one.id != node.id and one.spec.role == MANAGER
        ]
        if not others:
            raise FailedPreconditionError(
                "attempting to demote the last manager of the swarm",
                remedy="A swarm needs a manager; `swarmlet leave --force` ends it.",
            )
        seats = seats_of(self._log)
        seat = next((seat for seat in seats if seat.node_id == node.id), None)
        if seat is None:
            raise NoMemberError(
                "can't find manager in raft memberlist",
                remedy="It was promoted and is on its way in: try again once `swarmlet node ls` "
                "shows it reachable. `swarmlet node rm --force` removes one that never comes.",
            )
        check_removable(seats, seat.raft_id)

    def _check_removable(self, node: Node, *, force: bool) -> None:
        if any(member.node_id == node.id for member in self._log.members()):
            raise FailedPreconditionError(
                f"node {node.id} is a cluster manager and is a member of the raft cluster. "
                "It must be demoted to worker before removal",
                remedy="Demote it first: `swarmlet node demote`. Where it is the only manager, "
                "`swarmlet leave --force` there ends the swarm.",
            )
        if not force and node.status.state == NodeState.READY:
            raise FailedPreconditionError(
                f"node {node.id} is not down and can't be removed",
                remedy="Let it leave the swarm first, or use --force.",
            )

    def _orphans(self, view: View, node: Node) -> list[Change]:
        now_ms = self._env.clock.wall_ms()
        return [
            SetStatus(
                id=task.id,
                status=replace(
                    task.status,
                    state=int(TaskState.ORPHANED),
                    at_ms=now_ms,
                    message=ORPHANED_MESSAGE,
                ),
            )
            for task in view.tasks.scan("node", node.id)
            if task.status.state < TaskState.COMPLETE
        ]


def _overtaken(node: Node) -> UnavailableError:
    return UnavailableError(
        f"The row of node {node.id} is written by others all the time.",
        remedy="Try again in a moment.",
    )


def _draining(node: Node, deadline_ms: int, now_ms: int) -> Node:
    before = node.drain if node.spec.availability == DRAIN else None
    plan = DrainPlan(
        began_ms=now_ms if before is None else before.began_ms,
        deadline_ms=now_ms + deadline_ms if deadline_ms else 0,
    )
    return replace(node, spec=replace(node.spec, availability=DRAIN), drain=plan)


def still_refused(
    removed: Sequence[RemovedCertificate], now_ms: int
) -> tuple[RemovedCertificate, ...]:
    """Without those that are long over. A leader refuses also who is not in the list, for want of a
    row; the others tell a removed node by it from one that they have not heard of yet."""
    horizon_ms = now_ms - REMOVED_KEPT_MS
    kept = [each for each in removed if not each.expires_ms or each.expires_ms >= horizon_ms]
    return tuple(kept[-REMOVED_MAX:])


def _refused_until_ms(cluster: Cluster, node: Node, now_ms: int) -> int:
    """When the node's last certificate can neither be used nor renewed any more; of a node without
    one, as if it were issued now."""
    ends_ms = _end_ms(node.certificate.certificate)
    if ends_ms is None:
        ends_ms = now_ms + cluster.spec.ca_config.node_cert_expiry // NS_PER_MS
    return ends_ms + RENEWABLE_AFTER_EXPIRY_MS


def _end_ms(chain_pem: bytes) -> int | None:
    """The end of a chain's leaf; None where there is none that can be read."""
    try:
        leaf = x509.load_pem_x509_certificate(chain_pem)
    except ValueError:
        return None
    return int(leaf.not_valid_after_utc.timestamp()) * MS_PER_S

"""The swarm's own settings and join tokens, and its nodes."""

import logging
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from msgspec.structs import replace

from swarmlet.ca.external import check_external_ca
from swarmlet.ca.join_token import new_join_token
from swarmlet.ca.rotation import plan_rotation
from swarmlet.core.errors import (
    FailedPreconditionError,
    UnsupportedError,
)
from swarmlet.core.limits import (
    ENTRY_CHANGES_MAX,
    MS_PER_S,
    NS_PER_MS,
    RENEWABLE_AFTER_EXPIRY_MS,
)
from swarmlet.manager.control.base import ControlBase, check_version
from swarmlet.model.change import Change, Remove, SetStatus, Update
from swarmlet.model.cluster import (
    Cluster,
    JoinTokens,
    RemovedCertificate,
    RootCA,
    SwarmSpec,
)
from swarmlet.model.defaults import complete_swarm
from swarmlet.model.node import Node, NodeSpec, NodeState
from swarmlet.model.task import TaskState
from swarmlet.model.unsupported import refuse_swarm
from swarmlet.model.validate import check_node, check_swarm
from swarmlet.model.view import View, cluster_of

log = logging.getLogger("swarmlet.manager")

ORPHANED_MESSAGE: Final = "Task belonged to a node that has been deleted"  # SwarmKit node.go
REMOVED_KEPT_MS: Final = 7 * 24 * 3_600 * 1_000  # beyond its end; SwarmKit controlapi/cluster.go
REMOVED_MAX: Final = 5_000  # removed nodes remembered, some 200 KB of the cluster's row
_BESIDE_ORPHANS: Final = 2  # the cluster's row and the node's


class ClusterVerbs(ControlBase):
    """Writes the cluster's spec and tokens, and the nodes' specs."""

    async def update_cluster(
        self,
        version: int,
        spec: SwarmSpec,
        *,
        rotate_worker_token: bool,
        rotate_manager_token: bool,
        rotate_unlock_key: bool,
    ) -> None:
        """Replace the whole spec; a rotated token is replaced in the same transaction. Settings of
        the CA may begin a root rotation, change the one that runs or end it (`plan_rotation`)."""
        cluster = cluster_of(await self.read())
        new = accepted_swarm(spec, cluster.spec)
        check_version(version, cluster.version, "the swarm")
        if rotate_unlock_key:
            raise UnsupportedError("autolock is not supported yet, so there is no key to rotate")
        planned = await plan_rotation(
            cluster.root_ca,
            new.ca_config,
            now_ms=self._env.clock.wall_ms(),
            entropy=self._env.entropy,
            external=self._external,
        )
        tokens = self._rotated(cluster, worker=rotate_worker_token, manager=rotate_manager_token)
        row = replace(
            cluster,
            spec=without_signer(new),
            root_ca=replace(planned, tokens=tokens),
            removed_certificates=self._still_refused(cluster.removed_certificates),
        )
        await self._commit("the swarm", [Update(obj=row, seen=version)])
        _tell_of(cluster.root_ca, planned)

    def _rotated(self, cluster: Cluster, *, worker: bool, manager: bool) -> JoinTokens:
        digest, old = cluster.root_ca.cert_digest, cluster.root_ca.tokens
        return JoinTokens(
            worker=new_join_token(digest, self._env.entropy) if worker else old.worker,
            manager=new_join_token(digest, self._env.entropy) if manager else old.manager,
        )

    async def update_node(self, ref: str, version: int, spec: NodeSpec) -> None:
        """Name, labels and availability; another role is refused."""
        check_node(spec)
        view = await self.read()
        node = self.find_node(view, ref)
        if spec.role != node.spec.role:
            _refuse_role(view, spec)
        check_version(version, node.version, f"node {ref}")
        await self._commit(f"node {ref}", [Update(obj=replace(node, spec=spec), seen=version)])

    async def remove_node(self, ref: str, *, force: bool) -> None:
        """Forget a node that is down: its certificate is refused, its tasks are orphaned."""
        view = await self.read()
        node = self.find_node(view, ref)
        self._check_removable(node, force=force)
        cluster = cluster_of(view)
        orphans = self._orphans(view, node)
        if len(orphans) > ENTRY_CHANGES_MAX - _BESIDE_ORPHANS:
            await self._store.batch(orphans)
            orphans = []
        removed = RemovedCertificate(
            node_id=node.id, expires_ms=self._certificate_end_ms(cluster, node)
        )
        refused = self._still_refused((*cluster.removed_certificates, removed))
        row = replace(cluster, removed_certificates=refused)
        await self._commit(
            f"node {ref}",
            [
                *orphans,
                Update(obj=row, seen=cluster.version),
                Remove(table=Node, id=node.id, seen=node.version),
            ],
        )

    def _check_removable(self, node: Node, *, force: bool) -> None:
        if any(member.node_id == node.id for member in self._log.members()):
            raise FailedPreconditionError(
                f"node {node.id} is a cluster manager and is a member of the raft cluster. "
                "It must be demoted to worker before removal",
                remedy="Where it is the only one that keeps the swarm's state, `swarmlet leave "
                "--force` there ends the swarm.",
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

    def _certificate_end_ms(self, cluster: Cluster, node: Node) -> int:
        """When the node's last certificate can neither be used nor renewed any more; of a node
        without one, as if it were issued now."""
        ends_ms = _end_ms(node.certificate.certificate)
        if ends_ms is None:
            lifetime_ms = cluster.spec.ca_config.node_cert_expiry // NS_PER_MS
            ends_ms = self._env.clock.wall_ms() + lifetime_ms
        return ends_ms + RENEWABLE_AFTER_EXPIRY_MS

    def _still_refused(
        self, removed: Sequence[RemovedCertificate]
    ) -> tuple[RemovedCertificate, ...]:
        """Without those that are long over. Who is not in the list is refused as well, for want of
        a row: the list only tells a removed node from one that never was."""
        horizon_ms = self._env.clock.wall_ms() - REMOVED_KEPT_MS
        kept = [each for each in removed if not each.expires_ms or each.expires_ms >= horizon_ms]
        return tuple(kept[-REMOVED_MAX:])


def accepted_swarm(spec: SwarmSpec, old: SwarmSpec | None = None) -> SwarmSpec:
    """The spec as it is stored, at init (no `old`) or in an update.

    Raises InvalidArgumentError, or UnsupportedError for what cannot be kept yet.
    """
    new = complete_swarm(spec)
    check_swarm(new)
    for authority in new.ca_config.external_cas:
        check_external_ca(authority)
    refuse_swarm(new, old)
    return new


def without_signer(spec: SwarmSpec) -> SwarmSpec:
    """What is stored of a spec: the signing certificate and key are the root CA's, and shown to
    nobody. A client that sends back what it read must not take the key away by that."""
    config = replace(spec.ca_config, signing_ca_cert="", signing_ca_key="")
    return replace(spec, ca_config=config)


def _end_ms(chain_pem: bytes) -> int | None:
    """The end of a chain's leaf; None where there is none that can be read."""
    try:
        leaf = x509.load_pem_x509_certificate(chain_pem)
    except ValueError:
        return None
    return int(leaf.not_valid_after_utc.timestamp()) * MS_PER_S


def _tell_of(old: RootCA, new: RootCA) -> None:
    """Leave a trace of who may sign from now on."""
    if new.rotation is not None and new.rotation != old.rotation:
        log.info("rotation.planned", extra={"has_key": bool(new.rotation.key_pem)})
    elif new.rotation is None and old != new:
        log.info("rotation.settled", extra={"has_key": bool(new.key_pem)})


def _refuse_role(view: View, spec: NodeSpec) -> None:
    if spec.role == "worker" and view.nodes.count("role", "manager") == 1:
        raise FailedPreconditionError(
            "attempting to demote the last manager of the swarm",
            remedy="A swarm needs a manager; `swarmlet leave --force` ends it.",
        )
    raise UnsupportedError("promoting and demoting nodes is not supported yet")

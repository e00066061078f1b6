"""The swarm's own settings and join tokens."""

import logging

from msgspec.structs import replace

from swarmlet.ca.external import check_external_ca
from swarmlet.ca.join_token import new_join_token
from swarmlet.ca.rotation import plan_rotation
from swarmlet.ca.unlock_key import kek_of, new_unlock_key, unlock_keys_with
from swarmlet.manager.control.base import ControlBase, check_version
from swarmlet.manager.control.nodes import still_refused
from swarmlet.model.change import Update
from swarmlet.model.cluster import Cluster, JoinTokens, RootCA, SwarmSpec, UnlockKey
from swarmlet.model.defaults import complete_swarm
from swarmlet.model.unsupported import refuse_swarm
from swarmlet.model.validate import check_swarm
from swarmlet.model.view import cluster_of

log = logging.getLogger("swarmlet.manager")


class ClusterVerbs(ControlBase):
    """Writes the cluster's spec and tokens."""

    async def update_cluster(
        self,
        version: int,
        spec: SwarmSpec,
        *,
        rotate_worker_token: bool,
        rotate_manager_token: bool,
        rotate_unlock_key: bool,
    ) -> None:
        """Replace the whole spec; a rotated token or unlock key is replaced in the same
        transaction. Settings of the CA may begin a root rotation, change the one that runs or end
        it (`plan_rotation`)."""
        cluster = cluster_of(await self.read())
        new = accepted_swarm(spec, cluster.spec)
        check_version(version, cluster.version, "the swarm")
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
            unlock_keys=self._unlock_keys(cluster, new, rotate=rotate_unlock_key),
            removed_certificates=still_refused(
                cluster.removed_certificates, self._env.clock.wall_ms()
            ),
        )
        await self._commit("the swarm", [Update(obj=row, seen=version)])
        _tell_of(cluster.root_ca, planned)
        _tell_of_lock(kek_of(cluster).key, kek_of(row).key)

    def _unlock_keys(
        self, cluster: Cluster, new: SwarmSpec, *, rotate: bool
    ) -> tuple[UnlockKey, ...]:
        """Made where managers are to be locked, dropped where not. To rotate what there is not is
        nothing to refuse (SwarmKit controlapi/cluster.go)."""
        if not new.encryption_config.auto_lock_managers:
            return ()
        present = kek_of(cluster)
        key = present.key if present.locks and not rotate else new_unlock_key(self._env.entropy)
        return unlock_keys_with(key)

    def _rotated(self, cluster: Cluster, *, worker: bool, manager: bool) -> JoinTokens:
        digest, old = cluster.root_ca.cert_digest, cluster.root_ca.tokens
        return JoinTokens(
            worker=new_join_token(digest, self._env.entropy) if worker else old.worker,
            manager=new_join_token(digest, self._env.entropy) if manager else old.manager,
        )


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


def _tell_of(old: RootCA, new: RootCA) -> None:
    """Leave a trace of who may sign from now on."""
    if new.rotation is not None and new.rotation != old.rotation:
        log.info("rotation.planned", extra={"has_key": bool(new.rotation.key_pem)})
    elif new.rotation is None and old != new:
        log.info("rotation.settled", extra={"has_key": bool(new.key_pem)})


def _tell_of_lock(old: bytes, new: bytes) -> None:
    """Leave a trace of a change of the unlock key, and nothing of the key."""
    if old == new:
        return
    change = "disabled" if not new else "rotated" if old else "enabled"
    log.info("autolock.changed", extra={"change": change})

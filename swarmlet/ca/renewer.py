"""A node's certificate is renewed in time, or when a manager wants another one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import msgspec

from swarmlet.ca.identity import check_begun
from swarmlet.ca.join_token import cert_digest
from swarmlet.ca.key_file import NodeKeys
from swarmlet.ca.keys import key_to_pem, new_key
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.ca.source import CertificateSource, csr_of, holder_of, is_issued
from swarmlet.ca.successor import check_successor
from swarmlet.ca.unlock_key import UNLOCKED, WrongKeyError, kek_in
from swarmlet.core.errors import (
    DamagedError,
    FailedPreconditionError,
    LockedError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.core.identity import Identity
from swarmlet.core.limits import MS_PER_S
from swarmlet.env.base import Env
from swarmlet.env.sealed import new_seal_key
from swarmlet.model.node import IssuanceState
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import SwarmInfo
from swarmlet.wire.node_api import CertificateStatus

log = logging.getLogger("swarmlet.ca")

RENEW_EARLIEST, RENEW_LATEST = 0.5, 0.8  # of the lifetime; SwarmKit ca/certificates.go
FORCE_WAIT_S: Final = 0.5  # the manager writes the role down meanwhile; SwarmKit ca/config.go
RETRY_MIN_S: Final = 5.0  # SwarmKit ca/renewer.go
RETRY_MAX_S: Final = 3_600.0  # SwarmKit ca/renewer.go
REACHED_RETRY_S: Final = 60.0  # once a manager answers; as often as expired ones may ask it
REACHED_WAIT_S: Final = 1.0  # at most, the first time it answers: many nodes may wake together
LOOK_S: Final = (
    3_600.0  # the wall clock may jump, and waiting does not count a suspended host's time
)
POLL_MIN_S: Final = 0.5  # between looks at a request; each look waits at the manager, too
POLL_MAX_S: Final = 30.0  # SwarmKit ca/certificates.go
SIGNED_WAIT_S: Final = 300.0  # for the signature, before the request counts as failed

T = TypeVar("T")


class Renewer:
    """Component `run`; the sole writer of this node's certificate files while it lives.

    The key of a request is durable before the request leaves, and is used until an answer to it is
    known: after a crash, or an answer that got lost, the certificate is picked up.
    """

    def __init__(
        self, env: Env, files: NodeFiles, own: OwnIdentity, source: CertificateSource
    ) -> None:
        self._env, self._files, self._own, self._source = env, files, own, source
        self._woken = asyncio.Event()
        self._forced = self._served = 0  # renewals asked for, and how many of them are done
        self._role = ""  # the certificate should say; "": any
        self._offered = b""  # a root to be looked at, as soon as it can be accepted
        self._judged: tuple[bytes, Credentials] | None = None
        self._is_root_doubted = False
        self._tries, self._next_s = 0, 0.0
        self._haste_s = 0.0  # from when on an answer ends a pause at once
        self._fraction = self._draw_fraction()
        self.problem = ""  # why the last attempt failed, for people; "" while all is well

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._wait()
            await self._look_at_roots()
            if self._is_wanted() and self._env.clock.mono_s() >= self._next_s:
                await self._attempt()

    def heed(self, info: SwarmInfo) -> None:
        """What a manager says of this node's certificate and of the root."""
        self.take_root(info.root_pem)
        role, self._role = self._role, info.role
        if info.role and info.role not in (self._own.identity.role, role):
            self.force("another role", info.role)
        if info.certificate_state == IssuanceState.ROTATE:
            self.force("the managers ask for it")

    def force(self, reason: str, role: str = "") -> None:
        """Renew soon, and again until the certificate says `role`, where one is given."""
        if self._forced == self._served:  # else it waits for its turn after a failure
            log.info("certificate.forced", extra={"cause": reason, "role": role})
            self._tries = 0
            self._next_s = self._env.clock.mono_s() + FORCE_WAIT_S
        self._forced += 1
        self._role = role or self._role
        self._woken.set()

    def take_root(self, root_pem: bytes) -> None:
        """Trust this bundle as soon as this node's certificate is valid under it: see
        `check_successor`."""
        self._offered = root_pem
        self._woken.set()

    def doubt_root(self) -> None:
        """A manager and this node did not accept each other: perhaps the root was replaced while
        this node was away, or its clock is right only now. Look again at both."""
        self._is_root_doubted = True
        self._hasten()
        self._woken.set()

    async def renew(self) -> None:
        """Renew once, now. Raises SwarmError; what was asked for is picked up by the next call."""
        asked = self._forced
        pending = await self._env.blocking(self._pending)
        if pending is not None and await self._picked_up(pending):
            if not self._is_wanted():
                return
            pending = None
        keys = pending or await self._new_pending()
        csr = csr_of(keys)
        node_id = await self._believing(lambda: self._source.request(csr))
        await self._accept(await self._signed(node_id, csr), keys)
        self._served = asked

    def due_ms(self) -> int:
        """When the present certificate is renewed unasked, wall time."""
        identity = self._own.identity
        lifetime_ms = identity.ends_ms - identity.begins_ms
        return identity.begins_ms + int(lifetime_ms * self._fraction)

    # Waiting

    async def _wait(self) -> None:
        self._woken.clear()
        delay_s = self._delay_s()
        if delay_s <= 0:
            return
        try:
            async with asyncio.timeout(delay_s):
                await self._woken.wait()
        except TimeoutError:
            self._judged = None  # what could not be written then, perhaps can now

    def _delay_s(self) -> float:
        if self._has_root_to_look_at():
            return 0.0
        if self._is_wanted():
            return min(LOOK_S, self._next_s - self._env.clock.mono_s())
        left_ms = self.due_ms() - self._env.clock.wall_ms()
        return min(LOOK_S, left_ms / MS_PER_S)

    def _hasten(self) -> None:
        """A manager can be reached again: pauses that grew while there was none are over at once,
        but no more often than an expired certificate may ask."""
        now_s = self._env.clock.mono_s()
        if now_s >= self._haste_s:
            self._haste_s = now_s + REACHED_RETRY_S
            soon_s = now_s + self._env.rng.uniform(0.0, REACHED_WAIT_S)
            self._next_s = min(self._next_s, soon_s)
        self._next_s = min(self._next_s, self._haste_s)

    def _is_wanted(self) -> bool:
        return (
            self._forced > self._served
            or self._role not in ("", self._own.identity.role)
            or self._env.clock.wall_ms() >= self.due_ms()
        )

    def _draw_fraction(self) -> float:
        """Once for each certificate, so that looking often does not make it early."""
        return self._env.rng.uniform(RENEW_EARLIEST, RENEW_LATEST)

    # Renewing

    async def _attempt(self) -> None:
        try:
            await self.renew()
        except (SwarmError, OSError) as error:
            self.problem = str(error)
        else:
            self.problem = ""
        if not self._is_wanted():
            self._tries, self._next_s = 0, 0.0
            return
        retry_s = self._back_off()
        if self.problem:
            fields = {"cause": self.problem, "retry_in_s": round(retry_s)}
            log.warning("certificate.not_renewed", extra=fields)
        elif self._env.clock.wall_ms() >= self.due_ms():
            log.warning("certificate.clock_differs", extra={"retry_in_s": round(retry_s)})

    def _back_off(self) -> float:
        bound_s = min(RETRY_MAX_S, RETRY_MIN_S * 2 ** min(self._tries, 16))
        delay_s = self._env.rng.uniform(bound_s / 2, bound_s)
        self._tries += 1
        self._next_s = self._env.clock.mono_s() + delay_s
        return delay_s

    async def _picked_up(self, pending: NodeKeys) -> bool:
        """Whether the answer to an earlier request is there by now; it is this node's then."""
        node_id = self._own.identity.node_id
        status = await self._believing(lambda: self._source.status(node_id))
        if status.csr.encode() != csr_of(pending) or not is_issued(status):
            return False
        await self._accept(status, pending)
        return True

    def _pending(self) -> NodeKeys | None:
        try:
            return self._files.pending()
        except (DamagedError, LockedError, WrongKeyError):  # a lock that changed half
            self._files.drop_pending()
            return None

    async def _new_pending(self) -> NodeKeys:
        def make() -> NodeKeys:
            _, _, present = self._files.read()
            key_pem = key_to_pem(new_key(self._env.entropy))
            keys = msgspec.structs.replace(
                present, tls_key_pem=key_pem, tls_key_needs_rotation=False
            )
            self._files.write_pending(keys)
            return keys

        return await self._env.blocking(make)

    async def _signed(self, node_id: str, csr: bytes) -> CertificateStatus:
        """The answer to this request. Raises UnavailableError where it does not come in time."""
        delay_s, clock = POLL_MIN_S, self._env.clock
        deadline_s = clock.mono_s() + SIGNED_WAIT_S
        while clock.mono_s() < deadline_s:
            status = await self._source.status(node_id)
            is_ours = status.csr.encode() == csr
            if is_ours and is_issued(status):
                return status
            if is_ours and status.state == IssuanceState.FAILED:
                await self._env.blocking(self._files.drop_pending)
                raise FailedPreconditionError(f"The CA has signed no certificate: {status.err}")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, POLL_MAX_S)
        raise UnavailableError(f"The CA has not signed the certificate in {SIGNED_WAIT_S:.0f} s.")

    async def _accept(self, status: CertificateStatus, keys: NodeKeys) -> None:
        """Make the certificate this node's own. Raises UnauthorizedError where it may not be: then
        the next request has another key."""
        chain_pem = status.chain.encode()
        try:
            identity = await self._believing(lambda: self._verified(status, keys))
        except UnauthorizedError:
            await self._env.blocking(self._files.drop_pending)
            raise
        credentials = Credentials(
            root_pem=self._own.credentials.root_pem, chain_pem=chain_pem, key_pem=keys.tls_key_pem
        )
        await self._write(credentials, keys, identity)
        self._own.replace(credentials, identity)
        self._fraction = self._draw_fraction()
        fields = {"node_id": identity.node_id, "role": identity.role, "ends_ms": identity.ends_ms}
        log.info("certificate.renewed", extra=fields)

    async def _write(self, credentials: Credentials, keys: NodeKeys, identity: Identity) -> None:
        """A node that becomes a manager is locked where the swarm locks its managers; one that is
        none any more is not, and what sealed its copy of the state is gone."""
        write = partial(self._files.write_renewed, credentials.chain_pem)
        if identity.role != self._own.identity.role:
            is_manager, kek = identity.role == "manager", UNLOCKED
            if is_manager:
                kek = kek_in(await self._source.unlock_key(credentials))
            keys = msgspec.structs.replace(
                keys,
                raft_dek=new_seal_key(self._env.entropy),
                raft_dek_pending=b"",
                raft_dek_needs_rotation=False,
                tls_key_needs_rotation=kek.locks,
            )
            write = partial(write, keys, kek)
        await self._env.blocking(write)

    async def _verified(self, status: CertificateStatus, keys: NodeKeys) -> Identity:
        present = self._own.identity
        identity = holder_of(status, self._own.credentials.root_pem, keys)
        if (identity.node_id, identity.cluster_id) != (present.node_id, present.cluster_id):
            raise UnauthorizedError("The new certificate is for another node.")
        check_begun(identity, self._env.clock.wall_ms())  # else nobody would let this node in
        return identity

    # Roots

    async def _believing(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call again where the root was the reason for not believing, and there is a new one."""
        try:
            return await call()
        except UnauthorizedError:
            if not await self._fetch_root():
                raise
            return await call()

    def _has_root_to_look_at(self) -> bool:
        credentials = self._own.credentials
        return self._is_root_doubted or (
            self._offered not in (b"", credentials.root_pem)
            and self._judged != (self._offered, credentials)
        )

    async def _look_at_roots(self) -> None:
        if self._is_root_doubted:
            self._is_root_doubted = False
            try:
                await self._fetch_root()
            except (SwarmError, OSError) as error:
                log.info("certificate.root_not_fetched", extra={"cause": str(error)})
        if self._has_root_to_look_at():
            offered = self._offered
            self._judged = (offered, self._own.credentials)
            try:
                await self._replace_root(offered)
            except (SwarmError, OSError) as error:
                fields = {"cause": str(error), "digest": cert_digest(offered)}
                log.warning("certificate.root_refused", extra=fields)

    async def _fetch_root(self) -> bool:
        """Whether there is another root, and it is trusted from now on."""
        root_pem = await self._source.root()
        if root_pem == self._own.credentials.root_pem:
            return False
        await self._replace_root(root_pem)
        return True

    async def _replace_root(self, root_pem: bytes) -> None:
        check_successor(root_pem, self._own.credentials)
        await self._env.blocking(lambda: self._files.write_root(root_pem))
        credentials = msgspec.structs.replace(self._own.credentials, root_pem=root_pem)
        self._own.replace(credentials, self._own.identity)
        log.info("certificate.root_replaced", extra={"digest": cert_digest(root_pem)})

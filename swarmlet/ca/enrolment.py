"""Joining, as the node sees it: from a token to a certificate on disk, across restarts."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from swarmlet.ca.join_record import JoinRecord, JoinRecordFile
from swarmlet.ca.join_token import cert_digest, parse_join_token
from swarmlet.ca.key_file import NodeKeys, new_node_keys
from swarmlet.ca.keys import new_key
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.ca.source import csr_of, holder_of, is_issued
from swarmlet.ca.unlock_key import UNLOCKED, kek_in
from swarmlet.core.errors import (
    DiskFullError,
    FailedPreconditionError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.core.limits import MS_PER_S
from swarmlet.env.base import Env
from swarmlet.env.sealed import new_seal_key
from swarmlet.model.node import IssuanceState
from swarmlet.wire.channel import NodeLink
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import PROTOCOL_VERSION
from swarmlet.wire.node_api import CertificateRequest, CertificateStatus, UnlockKeyAnswer

log = logging.getLogger("swarmlet.ca")

TRIES: Final = 5  # over all addresses; SwarmKit ca/config.go
TRY_WAIT_S: Final = 2.0  # between them; SwarmKit ca/config.go
POLL_MIN_S: Final = 0.1  # each look also waits at the manager
POLL_MAX_S: Final = 30.0  # SwarmKit ca/certificates.go
CLOCK_DIFFERENCE_MAX_MS: Final = 3_600 * MS_PER_S  # certificates are backdated by as much

_NOT_SIGNED: Final = (
    "The swarm's CA has not signed this node's certificate yet; the log of the leading manager may "
    "say why."
)
_NOBODY_FOUND: Final = "No manager of this token's swarm answers on the local network."
_NAME_ONE: Final = (
    "Give a manager's address, `swarmlet join TOKEN ADDR`, or let a manager announce itself: "
    "`swarmlet init --announce`."
)

Find = Callable[[], Awaitable[Sequence[str]]]
"""Looks for managers on the local network: host:port of whoever answers."""


class ClockError(FailedPreconditionError):
    """The clocks of this host and of a manager are too far apart for certificates."""

    code = "clocks-differ"


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """Who this node is now, and the manager that said so."""

    own: OwnIdentity
    manager_addr: str


def is_final(error: SwarmError) -> bool:
    """Whether the same join can never succeed. Otherwise (nobody answers, no leader, too many
    attempts, no room on the disk, a clock not yet set) it may be resumed later."""
    return not isinstance(error, UnavailableError | DiskFullError | ClockError)


class Enrolment:
    """One join at a time: `begin` or, after a restart, `resume`; then `run`; then `forget`.

    The key and the record of the join are durable before anything leaves this node, and a CA takes
    the same request down once only: however often it is interrupted, one join makes one node.
    """

    def __init__(
        self, env: Env, link: NodeLink, files: NodeFiles, record: JoinRecordFile, find: Find
    ) -> None:
        self._env, self._link, self._files, self._record = env, link, files, record
        self._find = find
        self.problem = ""  # why it takes so long, for people

    async def begin(self, joining: JoinRecord) -> None:
        """Write down what is to be done. Raises InvalidArgumentError where the token is none."""
        parse_join_token(joining.token)
        assert not self._files.has_certificate(), "a node leaves before it joins"

        def write() -> None:
            entropy = self._env.entropy
            keys = new_node_keys(new_key(entropy), new_seal_key(entropy), new_seal_key(entropy))
            self._files.write_pending(keys, UNLOCKED)
            self._record.write(joining)

        await self._env.blocking(write)

    async def resume(self) -> JoinRecord | None:
        """The join that a restart interrupted, if any. Raises DamagedError."""
        return await self._env.blocking(self._recorded)

    async def run(self) -> Enrolled:
        """Until the certificate is on disk; as long as it takes, once a manager has taken the
        request down. Raises SwarmError: `is_final` tells whether it can be run again."""
        joining = await self._env.blocking(self._record.read)
        if not await self._env.blocking(self._files.has_certificate):
            keys = await self._env.blocking(self._files.pending)
            assert keys is not None, "begin wrote it, and only the certificate takes it away"
            if not joining.node_id:
                joining = await self._ask(joining, keys)
            await self._fetch(joining, keys)
        own = await self._env.blocking(self._files.own_identity)
        return Enrolled(own=own, manager_addr=joining.manager_addr)

    async def forget(self) -> None:
        """The node is in the swarm, or has given up: no restart will resume this join."""

        def remove() -> None:
            self._record.remove()
            if not self._files.has_certificate():
                self._files.drop_pending()

        await self._env.blocking(remove)

    def _recorded(self) -> JoinRecord | None:
        return self._record.read() if self._record.exists() else None

    # Asking

    async def _ask(self, joining: JoinRecord, keys: NodeKeys) -> JoinRecord:
        """Find a manager that takes the request down, and remember whom it made of this node."""
        refused: dict[str, SwarmError] = {}  # by address: asked once only
        for left in reversed(range(TRIES)):
            away: dict[str, SwarmError] = {}
            for addr in await self._addresses(joining, away):
                if addr in refused:
                    continue
                try:
                    return await self._asked(addr, joining, keys)
                except UnavailableError as error:
                    away[addr] = error
                except (UnauthorizedError, FailedPreconditionError) as error:
                    refused[addr] = error
            if not left or not (away or not joining.remote_addrs):
                break
            self._note({**refused, **away})
            await asyncio.sleep(TRY_WAIT_S)
        raise _nobody(joining, refused, away)

    async def _addresses(self, joining: JoinRecord, away: dict[str, SwarmError]) -> Sequence[str]:
        if joining.remote_addrs:
            return joining.remote_addrs
        try:
            return await self._find()
        except UnavailableError as error:
            away[""] = error
            return ()

    async def _asked(self, addr: str, joining: JoinRecord, keys: NodeKeys) -> JoinRecord:
        root_pem = await self._examined(addr, joining.token)
        await self._env.blocking(lambda: self._files.write_root(root_pem))
        ticket = await self._link.request_certificate(
            addr,
            CertificateRequest(
                csr=csr_of(keys).decode(), token=joining.token, availability=joining.availability
            ),
            Credentials(root_pem=root_pem),
        )
        taken = msgspec.structs.replace(joining, node_id=ticket.node_id, manager_addr=addr)
        await self._env.blocking(lambda: self._record.write(taken))
        log.info("join.taken_down", extra={"addr": addr, "node_id": ticket.node_id})
        return taken

    async def _examined(self, addr: str, token: str) -> bytes:
        """The root of the token's swarm, from this address."""
        hello = await self._link.hello(addr)
        if abs(hello.protocol - PROTOCOL_VERSION) > 1:
            raise FailedPreconditionError(
                f"The manager at {addr} speaks version {hello.protocol} of the protocol between "
                f"nodes, this node version {PROTOCOL_VERSION}.",
                remedy="Install the manager's release of swarmlet here, then join again.",
            )
        root_pem = await self._link.root(addr)
        told, found = parse_join_token(token).cert_digest, cert_digest(root_pem)
        if not hmac.compare_digest(told, found):
            raise UnauthorizedError(
                f"This token belongs to another swarm than the manager at {addr}, or to a root CA "
                "that this swarm has replaced since.",
                remedy="Copy the present token: `swarmlet join-token worker` on a manager.",
            )
        self._check_clock(addr, hello.now_ms)
        return root_pem

    def _check_clock(self, addr: str, theirs_ms: int) -> None:
        ahead_ms = self._env.clock.wall_ms() - theirs_ms
        if abs(ahead_ms) <= CLOCK_DIFFERENCE_MAX_MS:
            return
        way = "ahead of" if ahead_ms > 0 else "behind"
        raise ClockError(
            f"This host's clock is {_span(abs(ahead_ms))} {way} the clock of the manager at "
            f"{addr}: its certificate would not be valid here.",
            remedy="Set the clock that is wrong, `timedatectl set-ntp true` or "
            f"`date -u -s @{theirs_ms // MS_PER_S}` (the manager's time), then join again.",
        )

    def _note(self, problems: dict[str, SwarmError]) -> None:
        self.problem = "; ".join(error.message for error in problems.values())
        log.info("join.not_yet", extra={"cause": self.problem, "retry_in_s": TRY_WAIT_S})

    # Fetching

    async def _fetch(self, joining: JoinRecord, keys: NodeKeys) -> None:
        """Wait for the signature and make the certificate this node's own."""
        status = await self._signed(joining, csr_of(keys).decode())
        root_pem = await self._env.blocking(self._files.read_root)
        identity = holder_of(status, root_pem, keys)
        if identity.node_id != joining.node_id:
            raise UnauthorizedError("The certificate is for another node.")
        chain_pem = status.chain.encode()
        if identity.role == "manager":
            shown = Credentials(root_pem=root_pem, chain_pem=chain_pem, key_pem=keys.tls_key_pem)
            await self._lock(joining, keys, shown)
        await self._env.blocking(lambda: self._files.write_renewed(chain_pem))
        self.problem = ""
        log.info("join.certified", extra={"node_id": identity.node_id, "role": identity.role})

    async def _signed(self, joining: JoinRecord, csr: str) -> CertificateStatus:
        credentials = Credentials(root_pem=await self._env.blocking(self._files.read_root))
        addrs = dict.fromkeys([joining.manager_addr, *joining.remote_addrs])
        delay_s = POLL_MIN_S
        while True:
            for addr in addrs:
                try:
                    status = await self._link.certificate_status(addr, joining.node_id, credentials)
                except (UnavailableError, UnauthorizedError) as error:
                    self.problem = error.message
                    continue
                if status.csr == csr and is_issued(status):
                    return status
                if status.csr == csr and status.state == IssuanceState.FAILED:
                    raise FailedPreconditionError(
                        f"The swarm's CA has signed no certificate for this node: {status.err}",
                        remedy="The log of the leading manager says more.",
                    )
                self.problem = _NOT_SIGNED
                break
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, POLL_MAX_S)

    async def _lock(self, joining: JoinRecord, keys: NodeKeys, shown: Credentials) -> None:
        """Where the swarm locks its managers, lock the keys before they are a manager's. Those that
        were on the disk before are replaced: the TLS key soon, the others at once."""
        kek = kek_in(await self._told_key(joining, shown))
        if not kek.locks or keys.join_dek:
            return
        entropy = self._env.entropy
        locked = msgspec.structs.replace(
            keys,
            raft_dek=new_seal_key(entropy),
            node_dek=new_seal_key(entropy),
            join_dek=keys.node_dek,
            tls_key_needs_rotation=True,
        )
        await self._env.blocking(lambda: self._files.write_pending(locked, kek))

    async def _told_key(self, joining: JoinRecord, shown: Credentials) -> UnlockKeyAnswer:
        addrs = [*dict.fromkeys([joining.manager_addr, *joining.remote_addrs])]
        for left in reversed(range(TRIES)):
            for addr in addrs:
                try:
                    return await self._link.unlock_key(addr, shown)
                except (UnavailableError, UnauthorizedError) as error:
                    self.problem = error.message
            if left:
                await asyncio.sleep(TRY_WAIT_S)
        raise UnavailableError(
            f"No manager tells whether this swarm locks its managers: {self.problem}",
            remedy="The join goes on by itself once a manager answers.",
        )


def _nobody(
    joining: JoinRecord, refused: dict[str, SwarmError], away: dict[str, SwarmError]
) -> SwarmError:
    """Why no address took the request down, as one error."""
    problems = list({**refused, **away}.values())
    if not joining.remote_addrs:
        ours = [error for error in problems if not isinstance(error, UnauthorizedError)]
        return ours[0] if ours else UnavailableError(_NOBODY_FOUND, _NAME_ONE)
    sentences = dict.fromkeys(error.message for error in problems)
    if len(sentences) == 1:
        return problems[0]
    kind = UnavailableError if away else type(problems[0])
    return kind(f"No manager took this node in: {'; '.join(sentences)}", problems[0].remedy)


def _span(duration_ms: int) -> str:
    """For people: the two largest units."""
    minutes = duration_ms // (60 * MS_PER_S)
    days, hours, minutes = minutes // 1440, minutes % 1440 // 60, minutes % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min")]
    first = next((at for at, (count, _) in enumerate(parts) if count), 2)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])

"""What a node says of itself, with who issued its certificate."""

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from swarmlet.ca.identity import leaf_issuer
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.model.node import NodeDescription, TLSInfo
from swarmlet.wire.credentials import Credentials


class OwnDescription:
    """`describe` says what the host and its runtime are now; `own` is None for a node without a
    certificate, in tests."""

    def __init__(self, describe: Callable[[], NodeDescription], own: OwnIdentity | None) -> None:
        self._describe, self._own = describe, own
        self._of: Credentials | None = None
        self._tls_info = TLSInfo()

    def now(self) -> NodeDescription:
        description = self._describe()
        if self._own is None:
            return description
        if self._of is not self._own.credentials:
            self._of = self._own.credentials
            self._tls_info = tls_info(self._of)
        return replace(description, tls_info=self._tls_info)

    def credentials(self) -> Credentials | None:
        """Those that `now` speaks of."""
        return None if self._own is None else self._own.credentials

    async def renewed(self, seen: Credentials | None) -> None:
        """Return once the node's credentials are not `seen`."""
        if self._own is None or seen is None:
            await asyncio.Event().wait()
        else:
            await self._own.changed(seen)


def tls_info(credentials: Credentials) -> TLSInfo:
    """The root that is trusted and who signed the leaf: by this a root rotation counts nodes."""
    subject, public_key = leaf_issuer(credentials.chain_pem, credentials.root_pem)
    return TLSInfo(
        trust_root=credentials.root_pem.decode(),
        cert_issuer_subject=subject,
        cert_issuer_public_key=public_key,
    )

"""What a TLS connection between nodes needs of the node that makes it."""

import msgspec

from swarmlet.model.base import hidden


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """All PEM. `root_pem`: the bundle this node trusts. `chain_pem`: its certificate, then whatever
    leads from it to a trusted root. Without chain and key (a node that joins) nobody is shown."""

    root_pem: bytes
    chain_pem: bytes = b""
    key_pem: bytes = b""

    __repr__ = hidden

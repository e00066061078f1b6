"""Whether another root may take the place of the one a node trusts
(docs/adr/0005-a-node-believes-the-next-root-by-keys-it-knows.md)."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from swarmlet.ca.identity import verify_chain
from swarmlet.core.errors import UnauthorizedError
from swarmlet.wire.credentials import Credentials


def check_successor(root_pem: bytes, present: Credentials) -> None:
    """Whether a node may trust this bundle in the place of its own, whoever says so.

    The node's certificate must be valid under it, and each key in it must be one that the node has
    verified already: of its present roots, or of a CA in its own chain, where a rotation puts the
    next root's. So nobody can add a root of his own to a true one. Each must have signed itself,
    too: who only knows a key could write other dates around it. Raises UnauthorizedError.
    """
    verify_chain(present.chain_pem, root_pem, None)
    known = {*_keys_in(present.root_pem), *_keys_in(present.chain_pem)[1:]}
    if not known.issuperset(_keys_in(root_pem)):
        raise UnauthorizedError("The root bundle has a key that this node does not know.")
    for root in x509.load_pem_x509_certificates(root_pem):
        try:
            root.verify_directly_issued_by(root)
        except (ValueError, InvalidSignature) as error:
            raise UnauthorizedError("A root of the bundle was not signed by itself.") from error


def _keys_in(bundle_pem: bytes) -> list[bytes]:
    try:
        return [
            certificate.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            for certificate in x509.load_pem_x509_certificates(bundle_pem)
        ]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnauthorizedError("a certificate of the bundle cannot be read") from error

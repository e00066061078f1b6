"""ECDSA P-256 keys from the node's own entropy, so that the simulation keeps the product's key
type."""

from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from swarmlet.core.ids import Entropy

_ORDER: Final = (
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, FIPS 186-4
)
_DRAW_B: Final = 48  # 128 bits more than the order: the bias of the remainder is negligible
_SERIAL_B: Final = 20  # RFC 5280 §4.1.2.2: at most 20 octets, positive


def new_key(entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key (FIPS 186-4 B.4.1: extra random bits, then the remainder)."""
    secret = int.from_bytes(entropy(_DRAW_B), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(secret, ec.SECP256R1())


def new_serial(entropy: Entropy) -> int:
    """A random positive serial number of at most 159 bits."""
    return int.from_bytes(entropy(_SERIAL_B), "big") >> 1 | 1


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The key of a PKCS#8 PEM block. Raises ValueError where it is none, or no EC key."""
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")  # noqa: TRY004 - a value, not a type, to callers
    return key

"""Keys: a node's are ECDSA P-256 from its own entropy, so that the simulation keeps the product's
key type; a root that a user gives may be RSA or another curve."""

from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from swarmlet.core.ids import Entropy

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

RSA_KEY_MIN_BITS: Final = 2048  # SwarmKit ca/certificates.go
_ORDER: Final = (
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, FIPS 186-4
)
_DRAW_B: Final = 48  # 128 bits more than the order: the bias of the remainder is negligible
_SERIAL_B: Final = 20  # RFC 5280 §4.1.2.2: at most 20 octets, positive
_DIGESTS: Final[dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_SIGNATURE_DIGESTS: Final = ("sha256", "sha384", "sha512")


def new_key(entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key (FIPS 186-4 B.4.1: extra random bits, then the remainder)."""
    secret = int.from_bytes(entropy(_DRAW_B), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(secret, ec.SECP256R1())


def new_serial(entropy: Entropy) -> int:
    """A random positive serial number of at most 159 bits."""
    return int.from_bytes(entropy(_SERIAL_B), "big") >> 1 | 1


def key_to_pem(key: PrivateKey) -> bytes:
    """PKCS#8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A node's key, of a PKCS#8 PEM block. Raises ValueError where it is none, or no EC key."""
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")  # noqa: TRY004 - a value, not a type, to callers
    return key


def signing_key_from_pem(pem: bytes) -> PrivateKey:
    """A root's key: EC or RSA, PKCS#8, PKCS#1 or SEC 1. Raises ValueError with the cause."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ValueError("the key is encrypted") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("the key cannot be read as PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("the key is neither RSA nor ECDSA")  # noqa: TRY004 - as above
    return key


def key_problem(key: object) -> str:
    """Why nobody in a swarm may have this public key, or empty: RSA of 2048 bits and more, and the
    curves P-256, P-384 and P-521 are accepted (SwarmKit)."""
    if isinstance(key, rsa.RSAPublicKey):
        short = key.key_size < RSA_KEY_MIN_BITS
        return f"an RSA key of {key.key_size} bits, less than {RSA_KEY_MIN_BITS}" if short else ""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "" if key.curve.name in _DIGESTS else f"a key on the curve {key.curve.name}"
    return f"a key of an unsupported kind ({type(key).__name__})"


def signature_problem(certificate: x509.Certificate) -> str:
    """Why a certificate's signature is not accepted whoever made it, or empty: RSA or ECDSA with
    SHA-256, SHA-384 or SHA-512 are (SwarmKit)."""
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        digest = None
    if digest is None or digest.name not in _SIGNATURE_DIGESTS:
        return f"a signature of an unsupported kind ({digest.name if digest else 'no digest'})"
    return ""


def sign_certificate(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    """Signed with the digest that fits the key, the same bytes each time (RFC 6979 for ECDSA)."""
    if isinstance(key, rsa.RSAPrivateKey):
        return builder.sign(key, hashes.SHA256())
    return builder.sign(key, _DIGESTS[key.curve.name], ecdsa_deterministic=True)


def sign_request(
    builder: x509.CertificateSigningRequestBuilder, key: PrivateKey
) -> x509.CertificateSigningRequest:
    """As `sign_certificate`."""
    if isinstance(key, rsa.RSAPrivateKey):
        return builder.sign(key, hashes.SHA256())
    return builder.sign(key, _DIGESTS[key.curve.name], ecdsa_deterministic=True)

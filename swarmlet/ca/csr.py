"""Certificate requests: a node proves that it has the key; everything else in the request is
ignored."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from swarmlet.core.errors import InvalidArgumentError


def new_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request for `key`, PEM; the subject is empty, for the CA writes it."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return request.public_bytes(serialization.Encoding.PEM)


def public_key_of(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The only thing that is believed of a request. Raises InvalidArgumentError."""
    remedy = "Let the node make a new request: restart its daemon."
    try:
        request = x509.load_pem_x509_csr(csr_pem)
    except ValueError as error:
        raise InvalidArgumentError(
            f"the certificate request cannot be read: {error}", remedy
        ) from error
    if not request.is_signature_valid:
        raise InvalidArgumentError("the certificate request is not signed by its own key", remedy)
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise InvalidArgumentError("the certificate request is not for an ECDSA P-256 key", remedy)
    return key

"""Certificate requests: a node proves that it has the key; everything else in the request is
ignored."""

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from swarmlet.ca.keys import PrivateKey, sign_request
from swarmlet.core.errors import InvalidArgumentError


def new_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request for `key`, PEM; the subject is empty, for the CA writes it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return sign_request(builder, key).public_bytes(serialization.Encoding.PEM)


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


def ca_csr(certificate: x509.Certificate, key: PrivateKey) -> bytes:
    """A request for what a CA certificate says, with its own key, PEM: to be cross-signed."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(certificate.subject)
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.BasicConstraints | x509.KeyUsage):
            builder = builder.add_extension(extension.value, extension.critical)
    return sign_request(builder, key).public_bytes(serialization.Encoding.PEM)

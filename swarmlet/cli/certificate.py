"""Certificates for people: subject, issuer, and how long they last."""

from typing import Final

from swarmlet.cli.client import Client, Object, quote
from swarmlet.cli.errors import ApiError
from swarmlet.cli.format import expiry, long_time

_NOT_FOUND: Final = 404
_AT_REST: Final = ("", "issued")


def own_certificate(client: Client) -> Object:
    """That of the node whose daemon answers; {} where it has none."""
    return _read(client, "/swarmlet/v1/daemon")


def certificate_of_node(client: Client, node_id: str) -> Object:
    """What the swarm issued last to a node; {} for none."""
    return _read(client, f"/swarmlet/v1/nodes/{quote(node_id)}")


def _read(client: Client, path: str) -> Object:
    try:
        found: Object = client.get(path).get("Certificate") or {}
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise
        return {}  # what answers is a Docker Engine
    return found


def certificate_facts(certificate: Object, now_s: float) -> dict[str, str]:
    """Lines for people, by their names."""
    facts = {"Subject": certificate.get("Subject", ""), "Issuer": certificate.get("Issuer", "")}
    if ends := certificate.get("NotAfter", ""):
        word = "Expired" if expiry(ends, now_s).endswith(("ago", "now")) else "Expires"
        facts[word] = f"{expiry(ends, now_s)} ({long_time(ends)})"
    if certificate.get("State", "") not in _AT_REST:
        facts["State"] = certificate["State"]
    if certificate.get("Err"):
        facts["Problem"] = certificate["Err"]
    return {name: text for name, text in facts.items() if text}

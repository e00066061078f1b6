"""`node inspect --pretty`, line by line as docker prints it."""

from collections.abc import Mapping

import click

from swarmlet.cli.certificate import certificate_facts
from swarmlet.cli.client import Object
from swarmlet.cli.format import capital, human_size, long_time
from swarmlet.cli.world import wall_s

_NANO = 1_000_000_000


def print_node(node: Object, certificate: Object) -> None:
    """Print one node and its certificate, which docker does not show."""
    lines = [*_head(node), *_status(node), *_manager(node), *_description(node)]
    click.echo("\n".join([*lines, *_certificate(certificate)]))


def _head(node: Object) -> list[str]:
    spec, description = node.get("Spec") or {}, node.get("Description") or {}
    lines = [f"ID:\t\t\t{node['ID']}"]
    if spec.get("Name"):
        lines.append(f"Name:\t\t\t{spec['Name']}")
    if labels := spec.get("Labels"):
        lines += ["Labels:", *_labels(labels)]
    lines.append(f"Hostname:              \t{description.get('Hostname', '')}")
    return [*lines, f"Joined at:             \t{long_time(node.get('CreatedAt', ''))}"]


def _labels(labels: Mapping[str, str]) -> list[str]:
    """Of one without a value the key alone."""
    return [f" - {key}={labels[key]}" if labels[key] else f" - {key}" for key in sorted(labels)]


def _status(node: Object) -> list[str]:
    status, spec = node.get("Status") or {}, node.get("Spec") or {}
    lines = ["Status:", f" State:\t\t\t{capital(status.get('State', ''))}"]
    if status.get("Message"):
        lines.append(f" Message:\t\t{capital(status['Message'])}")
    lines.append(f" Availability:         \t{capital(spec.get('Availability', ''))}")
    return [*lines, f" Address:\t\t{status['Addr']}"] if status.get("Addr") else lines


def _manager(node: Object) -> list[str]:
    manager = node.get("ManagerStatus")
    if not manager:
        return []
    return [
        "Manager Status:",
        f" Address:\t\t{manager.get('Addr', '')}",
        f" Raft Status:\t\t{capital(manager.get('Reachability', ''))}",
        f" Leader:\t\t{'Yes' if manager.get('Leader') else 'No'}",
    ]


def _description(node: Object) -> list[str]:
    description = node.get("Description") or {}
    platform, resources = description.get("Platform") or {}, description.get("Resources") or {}
    lines = [
        "Platform:",
        f" Operating System:\t{platform.get('OS', '')}",
        f" Architecture:\t\t{platform.get('Architecture', '')}",
        "Resources:",
        f" CPUs:\t\t\t{resources.get('NanoCPUs', 0) // _NANO}",
        f" Memory:\t\t{human_size(resources.get('MemoryBytes', 0))}",
    ]
    return [*lines, *_engine(description.get("Engine") or {}), *_tls(description.get("TLSInfo"))]


def _engine(engine: Object) -> list[str]:
    names: dict[str, list[str]] = {}
    for plugin in engine.get("Plugins") or []:
        names.setdefault(plugin["Type"], []).append(plugin["Name"])
    lines = ["Plugins:"] if names else []
    lines += [f" {kind}:\t\t{', '.join(names[kind])}" for kind in sorted(names)]
    lines.append(f"Engine Version:\t\t{engine.get('EngineVersion', '')}")
    if labels := engine.get("Labels"):
        lines += ["Engine Labels:", *_labels(labels)]
    return lines


def _certificate(certificate: Object) -> list[str]:
    if not certificate:
        return []
    facts = certificate_facts(certificate, wall_s())
    width = max(map(len, facts)) + 2
    return ["Certificate:", *(f" {name + ':':<{width}}{facts[name]}" for name in facts)]


def _tls(info: Object | None) -> list[str]:
    if not info:
        return []
    return [
        "TLS Info:",
        " TrustRoot:",
        info.get("TrustRoot", ""),
        f" Issuer Subject:\t{info.get('CertIssuerSubject', '')}",
        f" Issuer Public Key:\t{info.get('CertIssuerPublicKey', '')}",
    ]

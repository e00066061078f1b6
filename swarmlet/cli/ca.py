"""`swarmlet ca`: the root certificate of the swarm, and changing it."""

import sys
from collections.abc import Iterator

import click

from swarmlet.cli.certificate import certificate_facts, own_certificate
from swarmlet.cli.client import Client, Json, Object
from swarmlet.cli.errors import CommandError
from swarmlet.cli.external_ca import external_ca_option, external_cas_of, read_pem
from swarmlet.cli.lazy import example
from swarmlet.cli.stale import warn
from swarmlet.cli.swarm import post_update
from swarmlet.cli.units import DURATION_NS
from swarmlet.cli.world import wall_s


@click.command(
    epilog=example(
        "swarmlet ca",
        "swarmlet ca --rotate",
        "swarmlet ca --rotate --ca-cert root.crt --ca-key root.key",
    )
)
@click.option("--rotate", is_flag=True, help="Change the root: a fresh one unless one is given.")
@click.option("--ca-cert", type=read_pem, metavar="FILE", help="The new root, as PEM.")
@click.option("--ca-key", type=read_pem, metavar="FILE", help="Its key, as PEM.")
@click.option(
    "--cert-expiry",
    type=DURATION_NS,
    metavar="DURATION",
    help="How long node certificates are valid, such as 2160h.",
)
@external_ca_option
@click.option("-d", "--detach", is_flag=True, help="Do not wait until all nodes have followed.")
@click.option("-q", "--quiet", is_flag=True, help="Wait without saying how it goes.")
@click.pass_obj
def ca(client: Client, /, *, rotate: bool, detach: bool, quiet: bool, **options: Json) -> None:
    """Print the swarm's root certificate; with --rotate, change it first.

    A terminal also shows whose it is and how long it lasts.
    """
    _check(options, rotate=rotate)
    if not rotate:
        client.allow_stale(warn)
    swarm = client.get("/swarm")
    if rotate:
        _put(swarm["Spec"], options)
        post_update(client, swarm)
        if detach:
            return
        from swarmlet.cli.rotation import wait

        swarm = wait(client, swarm["TLSInfo"]["TrustRoot"], quiet=quiet)
    _print_root(client, swarm)


def _check(options: dict[str, Json], *, rotate: bool) -> None:
    """Docker's rules for these flags. Raises click.UsageError."""
    given = {name: bool(value) for name, value in options.items()}
    given["external_ca"] = given.pop("external_cas")
    if not rotate:
        for name in ("ca_cert", "ca_key", "cert_expiry", "external_ca"):
            if given[name]:
                flag = name.replace("_", "-")
                raise click.UsageError(f"--{flag} needs --rotate to change the CA.")
    if given["external_ca"] and not given["ca_cert"]:
        raise click.UsageError(
            "Rotating to an external CA needs --ca-cert with its certificate; to add one for the "
            "present root use `swarmlet swarm update --external-ca`."
        )
    if given["ca_cert"] and not (given["ca_key"] or given["external_ca"]):
        raise click.UsageError("--ca-cert needs --ca-key, --external-ca or both beside it.")
    if given["ca_key"] and not given["ca_cert"]:
        raise click.UsageError("--ca-key needs --ca-cert beside it.")


def _put(spec: Object, options: dict[str, Json]) -> None:
    config = dict(spec.get("CAConfig") or {})
    cert, key = options["ca_cert"] or "", options["ca_key"] or ""
    if options["cert_expiry"]:
        config["NodeCertExpiry"] = options["cert_expiry"]
    if authorities := external_cas_of(options["external_cas"], cert):
        config["ExternalCAs"] = authorities
    config["SigningCACert"], config["SigningCAKey"] = cert, key
    if not cert:
        config["ForceRotate"] = config.get("ForceRotate", 0) + 1
    spec["CAConfig"] = config


def _print_root(client: Client, swarm: Object) -> None:
    root_pem = (swarm.get("TLSInfo") or {}).get("TrustRoot", "")
    if not root_pem:
        raise CommandError("The daemon shows no root certificate.", "See the daemon's log.")
    click.echo(root_pem.strip())
    if swarm.get("RootRotationInProgress"):
        from swarmlet.cli.rotation import progress_of

        progress = progress_of(swarm, client.get("/nodes"))
        click.echo(f"A root rotation is under way: {progress.sentence}.", err=True)
    if sys.stderr.isatty():
        click.echo("\n".join(_facts(client, root_pem)), err=True)


def _facts(client: Client, root_pem: str) -> Iterator[str]:
    from swarmlet.cli.rotation import root_digest

    yield f"Root: {root_digest(root_pem)}"
    for title, certificate in (
        ("", _certificate_of(root_pem)),
        ("This node's certificate:", own_certificate(client)),
    ):
        if title:
            yield title
        facts = certificate_facts(certificate, wall_s())
        yield from (f" {name}: {facts[name]}" for name in facts)


def _certificate_of(root_pem: str) -> Object:
    """What a root says. The library costs a tenth of a second: for people at a terminal alone."""
    from cryptography import x509

    root = x509.load_pem_x509_certificate(root_pem.encode())
    return {
        "Subject": root.subject.rfc4514_string(),
        "Issuer": root.issuer.rfc4514_string(),
        "NotAfter": root.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }

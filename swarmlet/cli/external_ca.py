"""`--external-ca protocol=cfssl,url=...`, with docker's grammar and sentences."""

from collections.abc import Sequence
from typing import Final

import click

from swarmlet.cli.client import Object

PROTOCOL: Final = "cfssl"
PEM_SIZE_MAX_B: Final = 65_536
_BEGIN: Final = "-----BEGIN "


def _authority(value: str | Object) -> Object:
    """The external CA that a flag's value names, as the API has it."""
    if isinstance(value, dict):  # converted already
        return value
    found: Object = {"Protocol": "", "URL": ""}
    for field in value.split(","):
        key, equals, text = field.partition("=")
        key, text = key.strip().lower(), text.strip()
        if not equals or not key:
            raise click.BadParameter(f"invalid field {field!r}: it must be a key=value pair")
        _put(found, key, text)
    for key, name in (("Protocol", "protocol"), ("URL", "url")):
        if not found[key]:
            raise click.BadParameter(f"the external-ca option needs a {name}= parameter")
    return found


def _put(found: Object, key: str, text: str) -> None:
    if key == "protocol":
        if text.lower() != PROTOCOL:
            raise click.BadParameter(f"unrecognized external CA protocol {text!r}: use {PROTOCOL}")
        found["Protocol"] = PROTOCOL
    elif key == "url":
        found["URL"] = text
    elif key == "cacert":
        found["CACert"] = read_pem(text)
    else:
        found.setdefault("Options", {})[key] = text


def read_pem(path: str) -> str:
    """The text of a PEM file, unread beyond what a certificate can be."""
    try:
        with open(path, encoding="ascii") as stream:
            text = stream.read(PEM_SIZE_MAX_B)
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}") from None
    except ValueError:
        text = ""
    if _BEGIN not in text:
        raise click.BadParameter(f"{path} holds no PEM")
    return text


def external_cas_of(authorities: Sequence[Object], ca_pem: str) -> list[Object]:
    """Those without a certificate of their own are for the root `ca_pem`, as docker sends them."""
    own = {"CACert": ca_pem} if ca_pem else {}
    return [{**own, **authority} for authority in authorities]


external_ca_option: Final = click.option(
    "--external-ca",
    "external_cas",
    multiple=True,
    type=_authority,
    metavar="protocol=cfssl,url=URL[,cacert=FILE]",
    help="A CA that signs certificates of nodes, asked over https; may be repeated.",
)

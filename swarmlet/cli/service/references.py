"""What a service refers to by name and the cluster by id: secrets, configs, networks, images."""

import os
from collections.abc import Iterable

import click

from swarmlet.cli.client import NO_HEADERS, Client, Headers, Object, quote
from swarmlet.cli.errors import ApiError, CommandError
from swarmlet.cli.options import filters_of, pairs_of
from swarmlet.cli.service.values import fields_of

_MODE_DEFAULT = 0o444
_FILE_FIELDS = ("source", "src", "target", "uid", "gid", "mode")
HOST_IMAGE = "host"  # the process runtime's: the node's own files, no image at all


def secrets_of(client: Client, texts: Iterable[str]) -> list[Object]:
    """`NAME` or source=NAME,target=FILE,uid=,gid=,mode= as references with ids."""
    return _references(client, "secret", texts)


def configs_of(client: Client, texts: Iterable[str]) -> list[Object]:
    return _references(client, "config", texts)


def _references(client: Client, kind: str, texts: Iterable[str]) -> list[Object]:
    files = [_file_of(text, kind) for text in texts]
    if not files:
        return []
    names = dict.fromkeys((name for name, _ in files), True)
    listed = client.get(f"/{kind}s", **filters_of({"name": names}))
    ids = {found["Spec"]["Name"]: found["ID"] for found in listed}
    word = kind.capitalize()
    references: list[Object] = []
    for name, file in files:
        if name not in ids:
            raise CommandError(
                f"{kind} not found: {name}", f"`swarmlet {kind} ls` lists what there is."
            )
        references.append({"File": file, f"{word}ID": ids[name], f"{word}Name": name})
    return references


def _file_of(text: str, kind: str) -> tuple[str, Object]:
    """The name, and where and how it appears in the task."""
    if "=" not in text:
        given = {"source": text}
    else:
        given = dict(fields_of(text, f"--{kind}", _FILE_FIELDS))
    name = given.get("source") or given.get("src") or ""
    if not name:
        raise click.UsageError(f"Invalid value for --{kind}: {text!r} has no source=NAME.")
    target = given.get("target") or (name if kind == "secret" else f"/{name}")
    try:
        mode = int(given["mode"], 8) if "mode" in given else _MODE_DEFAULT
    except ValueError:
        raise click.UsageError(
            f"Invalid value for --{kind}: the mode {given['mode']!r} is not octal, like 0400."
        ) from None
    file = {"Name": target, "UID": given.get("uid", "0"), "GID": given.get("gid", "0")}
    return name, {**file, "Mode": mode}


def networks_of(client: Client, texts: Iterable[str]) -> list[Object]:
    """`NAME` or name=NAME,alias=A,driver-opt=K=V as attachments with ids."""
    attachments: list[Object] = []
    for text in texts:
        fields = [("name", text)]
        if "=" in text:
            fields = fields_of(text, "--network", ("name", "alias", "driver-opt"))
        name = next((value for key, value in fields if key == "name"), "")
        network = client.get(f"/networks/{quote(name)}", scope="swarm")
        attachment: Object = {"Target": network["Id"]}
        if aliases := [value for key, value in fields if key == "alias"]:
            attachment["Aliases"] = aliases
        if settings := [value for key, value in fields if key == "driver-opt"]:
            attachment["DriverOpts"] = pairs_of(settings)
        attachments.append(attachment)
    return attachments


def tagged(image: str) -> str:
    """`image` with docker's default tag; `host` names no image and stays."""
    last = image.rpartition("/")[2]
    return image if image == HOST_IMAGE or ":" in last or "@" in last else f"{image}:latest"


def auth_headers(spec: Object, *, is_asked: bool) -> Headers:
    """The credentials of the image's registry where `--with-registry-auth` asks for them."""
    image = spec["TaskTemplate"]["ContainerSpec"].get("Image") or HOST_IMAGE
    if not is_asked or image == HOST_IMAGE:
        return NO_HEADERS
    from swarmlet.cli import registry_auth

    return registry_auth.auth_headers(image, os.environ)


def pin_image(client: Client, spec: Object, headers: Headers) -> str:
    """Write the digest of the image's tag, and its platforms, into the spec.

    Returns a warning where that cannot be done; it is of use only once the spec is accepted.
    """
    container = spec["TaskTemplate"]["ContainerSpec"]
    image = container["Image"]
    if image == HOST_IMAGE or "@" in image:
        return ""
    try:
        found = client.get(f"/distribution/{quote(image)}/json", headers)
    except ApiError:
        return (
            f"image {image} could not be accessed on a registry to record\n"
            f"its digest. Each node will access {image} independently,\n"
            "possibly leading to different nodes running different\nversions of the image.\n"
        )
    container["Image"] = f"{image}@{found['Descriptor']['digest']}"
    platforms = [_platform_of(known) for known in found.get("Platforms") or []]
    platforms = [platform for platform in platforms if platform["Architecture"] != "unknown"]
    if platforms:
        spec["TaskTemplate"].setdefault("Placement", {})["Platforms"] = platforms
    return ""


def _platform_of(known: Object) -> Object:
    """An arm image fits whatever an arm node calls itself, so docker leaves the name out."""
    architecture = known.get("architecture", "")
    name = "" if architecture.lower() == "arm" else architecture
    return {"Architecture": name, "OS": known.get("os", "")}

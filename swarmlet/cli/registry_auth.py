"""Credentials for an image's registry, from where `docker login` keeps them.

That is config.json in DOCKER_CONFIG or ~/.docker: `auths` holds them itself, `credHelpers` and
`credsStore` name a program (docker-credential-NAME) that is asked. Nothing is ever printed.
"""

import json
import os
import subprocess
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from swarmlet.cli.client import Json, Object
from swarmlet.cli.errors import CommandError

HEADER: Final = "X-Registry-Auth"
DOCKER_HUB: Final = "https://index.docker.io/v1/"
HELPER_TIMEOUT_S: Final = 60.0  # a person may have to unlock a keychain
_NOT_FOUND: Final = "credentials not found"  # docker-credential-helpers' words, exit code 1
_TOKEN_USER: Final = "<token>"  # noqa: S105 - a name that says the secret is an identity token


def auth_headers(image: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What docker sends for `--with-registry-auth`: also where there are no credentials, an object
    without fields then. Raises CommandError for a file or a helper that cannot be read."""
    found = _credentials(registry_of(image), _config(_config_path(environment)))
    raw = json.dumps(found, separators=(",", ":")).encode()
    return {HEADER: urlsafe_b64encode(raw).decode()}


def registry_of(image: str) -> str:
    """The key of an image's registry in docker's config: a host, or Docker Hub's address."""
    first, slash, _ = image.partition("/")
    is_host = slash and (first == "localhost" or any(sign in first for sign in ".:"))
    return first if is_host and first not in ("docker.io", "index.docker.io") else DOCKER_HUB


def _config_path(environment: Mapping[str, str]) -> Path:
    folder = environment.get("DOCKER_CONFIG") or os.path.join(
        environment.get("HOME", ""), ".docker"
    )
    return Path(folder, "config.json")


def _config(path: Path) -> Object:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise CommandError(
            f"Docker's credentials in {path} cannot be read: {reason}.",
            "Repair the file, or leave --with-registry-auth out.",
        ) from None
    return config if isinstance(config, dict) else {}


def _credentials(registry: str, config: Object) -> Object:
    """The fields of docker's AuthConfig that are known; none where there are no credentials."""
    helper = _mapping(config.get("credHelpers")).get(registry) or config.get("credsStore")
    if helper:
        return _ask(str(helper), registry)
    stored = _mapping(config.get("auths"))
    for key, entry in stored.items():
        if key == registry or _host(key) == _host(registry):
            return _decoded(_mapping(entry), key)
    return {}


def _mapping(value: Json) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _host(key: str) -> str:
    """The host of an old key such as https://host/v1/."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _decoded(entry: Object, registry: str) -> Object:
    """`auth` is NAME:PASSWORD in base64."""
    found = {key: entry[key] for key in ("identitytoken", "registrytoken") if entry.get(key)}
    if text := entry.get("auth"):
        try:
            name, colon, password = b64decode(text, validate=True).decode().partition(":")
        except ValueError:
            colon = ""
        if not colon:
            raise CommandError(
                f"Docker's credentials for {registry} are damaged.",
                "`docker login` makes new ones.",
            )
        found |= {"username": name, "password": password.rstrip("\0")}
    return {**found, "serveraddress": registry} if found else {}


def _ask(helper: str, registry: str) -> Object:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=registry.encode(),
            capture_output=True,
            timeout=HELPER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        said = "is not there" if isinstance(error, FileNotFoundError) else "gives no answer"
        raise _helper_failed(program, said) from None
    if done.returncode:
        if _NOT_FOUND in done.stdout.decode("utf-8", "replace"):
            return {}
        raise _helper_failed(program, f"failed with exit code {done.returncode}")
    try:
        answer = _mapping(json.loads(done.stdout))
    except ValueError:
        raise _helper_failed(program, "answered no JSON") from None
    name, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    if name == _TOKEN_USER:
        return {"serveraddress": registry, "identitytoken": secret}
    return {"username": name, "password": secret, "serveraddress": registry}


def _helper_failed(program: str, what: str) -> CommandError:
    return CommandError(
        f"The credential helper {program}, which docker's config.json names, {what}.",
        "Repair it, or leave --with-registry-auth out.",
    )

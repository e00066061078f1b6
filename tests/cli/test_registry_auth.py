"""Credentials as docker login keeps them, and as docker sends them."""

import json
import os
from base64 import b64encode, urlsafe_b64decode

import pytest

from swarmlet.cli.errors import CommandError
from swarmlet.cli.registry_auth import DOCKER_HUB, HEADER, auth_headers, registry_of

IMAGE = "registry.example:5000/team/app:1"
HOST = "registry.example:5000"
LOGIN = b64encode(b"ann:pass:word").decode()


@pytest.fixture
def config(tmp_path):
    """Writes docker's config.json and gives the environment that names it."""

    def write(content):
        raw = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "config.json").write_text(raw)
        return {"DOCKER_CONFIG": str(tmp_path)}

    return write


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Puts docker-credential-vault on PATH: what it prints, and how it ends."""

    def write(says, code=0):
        path = tmp_path / "bin" / "docker-credential-vault"
        path.parent.mkdir()
        path.write_text(
            f"#!/bin/sh\ncat > {tmp_path}/asked\ncat <<'END'\n{says}\nEND\nexit {code}\n"
        )
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
        return tmp_path / "asked"

    return write


def sent(environment, image=IMAGE):
    return json.loads(urlsafe_b64decode(auth_headers(image, environment)[HEADER]))


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("busybox", DOCKER_HUB),
        ("library/busybox:1", DOCKER_HUB),
        ("docker.io/library/busybox", DOCKER_HUB),
        ("localhost/app", "localhost"),
        ("host:5000/app@sha256:1", "host:5000"),
        ("ghcr.io/a/b:1", "ghcr.io"),
    ],
)
def test_registry_is_the_first_part_of_a_name_that_looks_like_a_host(image, registry):
    assert registry_of(image) == registry


def test_stored_login_is_sent_with_its_name_and_password(config):
    environment = config({"auths": {HOST: {"auth": LOGIN}, DOCKER_HUB: {"auth": "x"}}})
    assert sent(environment) == {
        "username": "ann",
        "password": "pass:word",
        "serveraddress": HOST,
    }


def test_keys_of_older_logins_are_found_by_their_host(config):
    environment = config({"auths": {f"https://{HOST}/v1/": {"auth": LOGIN}}})
    assert sent(environment)["username"] == "ann"


def test_identity_token_is_sent_as_one(config):
    environment = config({"auths": {HOST: {"identitytoken": "tok"}}})
    assert sent(environment) == {"identitytoken": "tok", "serveraddress": HOST}


@pytest.mark.parametrize("content", [{}, {"auths": {}}, {"auths": {"other": {"auth": LOGIN}}}])
def test_without_credentials_dockers_empty_object_is_sent(config, content):
    assert auth_headers(IMAGE, config(content)) == {HEADER: "e30="}


def test_without_a_config_dockers_empty_object_is_sent(tmp_path):
    assert auth_headers(IMAGE, {"HOME": str(tmp_path)}) == {HEADER: "e30="}


@pytest.mark.parametrize("key", ["store", "helper"])
def test_helper_is_asked_for_the_registry(config, helper, key):
    asked = helper('{"ServerURL":"x","Username":"bo","Secret":"hush"}')
    named = {"credsStore": "vault"} if key == "store" else {"credHelpers": {HOST: "vault"}}
    assert sent(config(named)) == {"username": "bo", "password": "hush", "serveraddress": HOST}
    assert asked.read_text() == HOST


def test_helpers_token_is_an_identity_token(config, helper):
    helper('{"Username":"<token>","Secret":"tok"}')
    assert sent(config({"credsStore": "vault"})) == {"identitytoken": "tok", "serveraddress": HOST}


def test_helper_that_knows_nothing_is_no_error(config, helper):
    helper("credentials not found in native keychain", 1)
    assert sent(config({"credsStore": "vault"})) == {}


@pytest.mark.parametrize(
    ("says", "code", "words"),
    [("boom", 1, "failed with exit code 1"), ("no json", 0, "answered no JSON")],
)
def test_helper_that_fails_is_named_and_not_quoted(config, helper, says, code, words):
    helper(says, code)
    with pytest.raises(CommandError, match=words) as caught:
        sent(config({"credsStore": "vault"}))
    assert "docker-credential-vault" in caught.value.message
    assert says not in caught.value.message


def test_helper_that_is_not_there_is_named(config):
    with pytest.raises(CommandError, match=r"docker-credential-nowhere, .* is not there"):
        sent(config({"credsStore": "nowhere"}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read: it is no JSON"),
        ({"auths": {HOST: {"auth": "hush!"}}}, "are damaged"),
        ({"auths": {HOST: {"auth": b64encode(b"hush").decode()}}}, "are damaged"),
    ],
)
def test_damaged_config_is_said_without_its_secrets(config, content, words):
    with pytest.raises(CommandError, match=words) as caught:
        sent(config(content))
    assert "hush" not in caught.value.message


def test_service_create_sends_the_login_to_the_registry_and_with_the_spec(
    swarmlet, daemon, config, monkeypatch
):
    monkeypatch.setenv("DOCKER_CONFIG", config({"auths": {HOST: {"auth": LOGIN}}})["DOCKER_CONFIG"])
    daemon.script = {"POST /services/create": (201, {"ID": "s1", "Warnings": None})}
    result = swarmlet("service", "create", "-d", "--with-registry-auth", IMAGE)
    assert result.code == 0
    distribution, create = (request.headers.get(HEADER) for request in daemon.requests)
    assert json.loads(urlsafe_b64decode(create))["username"] == "ann"
    assert distribution == create
    assert "pass:word" not in result.out + result.err


@pytest.mark.parametrize("is_asked", [True, False])
def test_service_update_sends_the_login_or_keeps_the_one_before(swarmlet, daemon, is_asked):
    spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox:1"}}}
    service = {"ID": "s1", "Version": {"Index": 7}, "Spec": spec}
    daemon.script = {
        "GET /services/web": (200, service),
        "POST /services/s1/update": (200, {"Warnings": None}),
    }
    flags = ["--with-registry-auth"] if is_asked else []
    assert swarmlet("service", "update", "-d", "--env-add", "A=1", *flags, "web").code == 0
    (posted,) = daemon.posted()
    assert (HEADER in posted.headers) is is_asked
    assert posted.query.get("registryAuthFrom") == (None if is_asked else "spec")

"""Secrets do not leave the host: by name, by shape, and wherever they occur again."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.redaction import (
    REDACTED,
    VALUE_LENGTH_MIN,
    Redactor,
    redact_arguments,
    redact_text,
)

TOKEN = "SWMTKN-1-3ksdh2gfz0vy8fbcz3u6y5e2-8vxv8rssmk743ojnwacrr2e7c"
KEY = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"docker swarm join --token {TOKEN} 10.0.0.1:2377", "SWMTKN-"),
        (f"unlock with {KEY}.", "SWMKEY-"),
        ("-----BEGIN EC PRIVATE KEY-----\nhunter22\n-----END EC PRIVATE KEY-----", "BEGIN EC"),
        ("-----BEGIN PRIVATE KEY-----\\nhunter22", "BEGIN PRIVATE"),
        ("https://me:hunter22@registry.local/v2/", "@registry.local/v2/"),
        ("PASSWORD=hunter22", "PASSWORD="),
        ('db_password: "hunter22 and more"', "db_password: "),
        ('{"token": "hunter22", "n": 1}', '", "n": 1}'),
        ('{\\"secret\\":\\"hunter22\\"}', "secret"),
        ("Authorization: Basic hunter22", "Authorization: "),
        ("X-Registry-Auth=hunter22==", "X-Registry-Auth="),
        ("AWS_SECRET_ACCESS_KEY=hunter22/x", "AWS_SECRET_ACCESS_KEY="),
    ],
)
def test_redact_text_takes_the_secret_and_leaves_the_rest(text, clean):
    found = redact_text(text)
    assert clean in found
    assert REDACTED in found
    for secret in ("hunter22", TOKEN, KEY, TOKEN[9:], KEY[9:]):
        assert secret not in found


@pytest.mark.parametrize(
    "text",
    [
        "secret web-key not found",
        "a token is missing",
        "unix:///run/swarmlet/swarmlet.sock",
        "http://127.0.0.1:8080/x@y",
        "task.observed task_id=abc state=512",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_redact_text_leaves_what_is_no_secret(text):
    assert redact_text(text) == text


def test_redact_text_keeps_json_json():
    text = json.dumps({"password": "a b", "x": [{"token": ""}], "url": "http://u:p@h"})
    found = json.loads(redact_text(text))
    assert found["password"] == REDACTED
    assert found["url"] == f"http://{REDACTED}@h"


SERVICE = {
    "ID": "service-id-1",
    "Spec": {
        "Name": "web",
        "Labels": {"traefik.auth": "label-value", "com.docker.stack.namespace": "shop"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "nginx:1",
                "Command": ["/bin/server", "--pass-phrase", "argument-value"],
                "Args": ["first-value", "later-value"],
                "Env": ["DB=env-value", "EMPTY=", "BARE"],
                "Healthcheck": {"Test": ["CMD-SHELL", "health-value"]},
                "Mounts": [{"VolumeOptions": {"DriverConfig": {"Options": {"o": "opt-value"}}}}],
                "Secrets": [{"SecretName": "key", "SecretID": "secret-id-1"}],
            },
        },
    },
    "Data": "data-value",
    "RegistryAuth": "auth-value",
    "JoinTokens": {"Worker": "worker-value", "Manager": "manager-value"},
    "Version": {"Index": 7},
}


def test_redactor_takes_every_value_and_keeps_the_frame():
    redactor = Redactor()
    text = json.dumps(redactor.object(SERVICE))
    assert "-value" not in text
    for kept in ("service-id-1", "nginx:1", "/bin/server", "shop", "DB=", "secret-id-1", "BARE"):
        assert kept in text
    assert json.loads(text)["Version"] == {"Index": 7}


def test_redactor_takes_the_same_values_out_of_what_comes_later():
    redactor = Redactor()
    redactor.object(SERVICE)
    assert redactor.text("task failed: env-value is wrong") == f"task failed: {REDACTED} is wrong"


def test_redactor_leaves_plain_words_in_what_comes_later_unless_their_name_tells():
    redactor = Redactor()
    env = redactor.object({"Env": ["STATE=running", "SHELL=/bin/bash", "API_KEY=correcthorse"]})
    assert env == {"Env": [f"{name}={REDACTED}" for name in ("STATE", "SHELL", "API_KEY")]}
    text = "running /bin/bash correcthorse"
    assert redactor.text(text) == f"running /bin/bash {REDACTED}"


def test_redactor_keeps_the_labels_of_nodes_where_told():
    node = {"Spec": {"Labels": {"zone": "north"}}}
    assert Redactor().object(node, keeps_labels=True) == node
    assert Redactor().object(node)["Spec"]["Labels"] == {"zone": REDACTED}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["Env", "Labels", "Args", "Data", "Name", "Options", "Auth", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(JSON, st.text(alphabet='abc"\\ \n=é', min_size=VALUE_LENGTH_MIN, max_size=30))
@settings(max_examples=60, deadline=None)
def test_no_value_of_an_environment_survives_anywhere(other, value):
    redactor = Redactor()
    secret = f"zqx{value}zqx"
    seen = {"Err": f"about {secret}", "Spec": other, "Env": [f"DB_PASSWORD={secret}"], secret: 1}
    clean = redactor.known(redactor.object(seen))
    for text in (json.dumps(clean), redactor.text(f"{secret} {json.dumps(secret)}")):
        assert secret not in text
        assert json.dumps(secret)[1:-1] not in text


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["ls", "-l", "/srv"], "ls -l /srv"),
        (["mysql", "--password", "geheim"], "mysql --password <redacted>"),
        (["mysql", "--password=geheim"], "mysql --password=<redacted>"),
        (["env", "API_TOKEN=geheim", "true"], "env API_TOKEN=<redacted> true"),
        (["x", "--token", "--verbose", "y"], "x --token --verbose y"),
        (["sh", "-c", "export PASSWORD=geheim; true"], "sh -c export PASSWORD=<redacted>; true"),
        (["sh", "-c", "export DB_PASS=geheim; true"], "sh -c export DB_PASS=<redacted>; true"),
        (["sh", "-c", "x --token 'ge heim' | y -v"], "sh -c x --token <redacted> | y -v"),
        (["sh", "-c", "monkey --keep a; x --no-auth -v"], "sh -c monkey --keep a; x --no-auth -v"),
        (["curl", "https://alice:geheim@host/"], "curl https://<redacted>@host/"),
        (["swarmlet", "join", "SWMTKN-1-geheim"], "swarmlet join SWMTKN-<redacted>"),
        (["keys", "monkey"], "keys monkey"),
        ([], ""),
    ],
)
def test_arguments_are_shown_without_what_looks_like_a_secret(arguments, shown):
    assert redact_arguments(arguments) == shown

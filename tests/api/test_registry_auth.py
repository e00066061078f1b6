"""X-Registry-Auth: checked, kept with the spec's version, and never told again."""

import json
import logging
from base64 import b64encode, urlsafe_b64encode

import pytest
from msgspec.structs import replace

from tests.api.world import service_body

HEADER = "X-Registry-Auth"
# Its base64 has both signs in which that of URLs differs.
LOGIN = {"username": "ann", "password": "hush-hush-ÿþ?>"}
AUTH = urlsafe_b64encode(json.dumps(LOGIN, ensure_ascii=False).encode()).decode()


async def create(api, auth, name="web"):
    return await api(
        "POST", "/services/create", service_body(name), headers={HEADER: auth} if auth else {}
    )


async def update(api, auth="", **query):
    _, service = await api("GET", "/services/web")
    spec = service["Spec"]
    spec["TaskTemplate"]["ForceUpdate"] = spec["TaskTemplate"].get("ForceUpdate", 0) + 1
    params = {"version": str(service["Version"]["Index"]), **query}
    path = "/services/web/update"
    headers = {HEADER: auth} if auth else {}
    return await api("POST", path, spec, params=params, headers=headers)


def kept(api):
    """What the service's present spec version holds."""
    view = api.world.store.view()
    (service,) = view.services.all()
    return view.specs.get(f"{service.id}@{service.spec_version}").registry_auth


async def test_credentials_are_kept_as_they_came(api):
    assert (await create(api, AUTH))[0] == 201
    assert kept(api) == AUTH


@pytest.mark.parametrize("auth", [AUTH.rstrip("="), "e30=", "e30"])
async def test_padding_may_be_left_out_and_the_object_may_be_empty(api, auth):
    assert (await create(api, auth))[0] == 201
    assert kept(api) == auth.rstrip("=") + "=" * (-len(auth.rstrip("=")) % 4)


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ("***", "illegal base64 data"),
        ("a", "illegal base64 data"),
        (b64encode(b"\xfb\xff\xfe{}").decode(), "illegal base64 data"),
        (urlsafe_b64encode(b"hush").decode(), "must be a valid JSON object"),
        (urlsafe_b64encode(b'["hush"]').decode(), "must be a valid JSON object"),
        (urlsafe_b64encode(b'{"hush":' + b"[" * 5_000).decode(), "must be a valid JSON object"),
    ],
)
async def test_bad_credentials_are_400_and_not_repeated(api, auth, said):
    status, answer = await create(api, auth)
    assert (status, answer["message"]) == (400, f"invalid X-Registry-Auth header: {said}")
    assert "hush" not in json.dumps(answer)
    assert not list(api.world.store.view().services.all())


async def test_update_keeps_replaces_or_fetches_back_credentials(api):
    other = urlsafe_b64encode(b'{"username":"bo"}').decode()
    await create(api, AUTH)
    assert (await update(api))[0] == 200
    assert kept(api) == AUTH
    assert (await update(api, other))[0] == 200
    assert kept(api) == other
    assert (await update(api, registryAuthFrom="previous-spec"))[0] == 200
    assert kept(api) == AUTH
    assert (await update(api, registryAuthFrom="spec"))[0] == 200
    assert kept(api) == AUTH
    status, answer = await update(api, registryAuthFrom="elsewhere")
    assert status == 500
    assert answer["message"].startswith("unsupported registryAuthFrom value")


async def test_no_answer_and_no_log_line_shows_credentials(api, caplog):
    with caplog.at_level(logging.DEBUG):
        _, created = await create(api, AUTH)
        await api.world.add_task(created["ID"])
        await update(api, registryAuthFrom="spec")
        said = []
        for path in ("/services", "/services/web?insertDefaults=1", "/tasks", "/info"):
            _, answer = await api("GET", path)
            said.append(json.dumps(answer))
    text = "".join(said) + caplog.text
    assert AUTH not in text
    assert "hush" not in text


async def test_distribution_is_the_runtimes_own_answer_asked_with_the_credentials(api):
    api.world.registry = b'{"Descriptor":{"digest":"sha256:12"},"Platforms":[]}\n'
    path = "/v1.50/distribution/ghcr.io/team/app:1/json"
    status, answer = await api("GET", path, headers={HEADER: AUTH})
    assert (status, answer["Descriptor"]["digest"]) == (200, "sha256:12")
    assert api.world.asked_registries == [("ghcr.io/team/app:1", AUTH)]


async def test_distribution_without_images_is_501_with_a_sentence(api):
    status, answer = await api("GET", "/distribution/busybox:1/json")
    assert (status, answer["message"]) == (501, "The process runtime of this node has no images.")


async def test_info_warns_of_a_runtime_that_is_away(api):
    assert (await api("GET", "/info"))[1]["Warnings"] is None
    problem = "The Docker Engine at unix:///run/docker.sock does not answer."
    api.world.facts = replace(api.world.facts, runtime_problem=problem)
    assert (await api("GET", "/info"))[1]["Warnings"] == [f"WARNING: {problem}"]

"""Services through the API's verbs: created, updated in place, removed."""

import asyncio

import pytest
from msgspec.structs import replace

from swarmlet.core.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StaleVersionError,
    SwarmError,
    UnknownValueError,
    UnsupportedError,
)
from swarmlet.manager.control.services import check_references, guards_of
from swarmlet.model.base import Empty
from swarmlet.model.change import Create, Exists, PortFree, Update
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.container import ConfigReference, FileTarget, SecretReference
from swarmlet.model.defaults import normal_service
from swarmlet.model.network import Network
from swarmlet.model.secret import Secret, SecretSpec
from swarmlet.model.service import (
    EndpointSpec,
    NetworkAttachmentConfig,
    PortConfig,
    ReplicatedMode,
    Service,
    ServiceMode,
    SpecVersion,
    UpdateConfig,
    UpdateStatus,
    spec_version_id,
)
from swarmlet.model.view import spec_of
from tests.manager.control_world import SELF, new_swarm, task_of, web


def scaled(replicas):
    return ServiceMode(replicated=ReplicatedMode(replicas=replicas))


def current(swarm, name="web"):
    return swarm.control.find_service(swarm.view, name)


async def updated(swarm, spec, **how):
    return await swarm.control.update_service("web", current(swarm).version, spec, **how)


# Create ------------------------------------------------------------------------------------------
async def test_service_without_a_name_is_given_one():
    swarm = await new_swarm()
    made = await swarm.control.create_service(web(name=""))
    name = spec_of(swarm.view, current(swarm, made.id)).name
    assert name.count("_") == 1
    assert current(swarm, name).id == made.id


async def test_service_is_stored_in_its_whole_form():
    swarm = await new_swarm()
    sent = replace(web(env=["A=1"]), mode=ServiceMode())
    created = await swarm.control.create_service(sent)
    row = swarm.view.services.get(created.id)
    assert row.name == "web"
    assert (row.spec_version, row.previous_spec_version) == (1, 0)
    assert row.version == swarm.view.index
    assert spec_of(swarm.view, row) == normal_service(sent)
    assert spec_of(swarm.view, row).mode == scaled(1)
    assert created.warnings == ()


async def test_second_service_of_a_name_is_refused():
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    with pytest.raises(ConflictError) as refused:
        await swarm.control.create_service(web("Web"))
    assert refused.value.message.endswith(
        "name conflicts with an existing object: service Web already exists"
    )
    assert len(swarm.view.services) == len(swarm.view.specs) == 1


BAD = [
    (web("bad name!"), InvalidArgumentError),
    (web(hostname="{{.Task.Nope}}"), InvalidArgumentError),
    (
        replace(web(), mode=ServiceMode(replicated=ReplicatedMode(replicas=-1))),
        InvalidArgumentError,
    ),
    (
        replace(web(), endpoint_spec=EndpointSpec(ports=[PortConfig(target_port=80)])),
        UnsupportedError,
    ),
]


@pytest.mark.parametrize(("spec", "error"), BAD)
async def test_bad_service_is_refused_and_nothing_is_written(spec, error):
    swarm = await new_swarm()
    before = swarm.view.index
    with pytest.raises(error):
        await swarm.control.create_service(spec)
    assert swarm.view.index == before
    assert len(swarm.view.services) == 0


async def test_image_that_no_node_can_run_is_stored():
    swarm = await new_swarm()
    spec = web()
    task = replace(
        spec.task_template, container_spec=replace(spec.task_template.container_spec, image="nginx")
    )
    await swarm.control.create_service(replace(spec, task_template=task))
    assert len(swarm.view.services) == 1


# Update ------------------------------------------------------------------------------------------
async def test_scaled_service_gets_a_new_spec_version():
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    before = current(swarm)
    assert await updated(swarm, replace(web(), mode=scaled(5), labels={"a": "b"})) == ()
    after = current(swarm)
    assert (after.spec_version, after.previous_spec_version) == (2, 1)
    assert after.version > before.version
    assert after.created_ms == before.created_ms
    assert spec_of(swarm.view, after).mode == scaled(5)
    assert spec_of(swarm.view, after).labels == {"a": "b"}
    assert swarm.view.specs.get(spec_version_id(after.id, 1)).spec == normal_service(web())


async def test_spec_that_means_the_same_makes_no_version_of_it_but_moves_the_services():
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    await updated(swarm, replace(web(), mode=scaled(2)))
    before = current(swarm)
    same = replace(web(), mode=scaled(2))
    same = replace(same, task_template=replace(same.task_template, runtime="container"))
    await updated(swarm, same)
    after = current(swarm)
    assert after.version > before.version
    assert (after.spec_version, after.previous_spec_version) == (2, 2)
    assert len(swarm.view.specs) == 2


async def test_update_forgets_the_status_of_the_update_before():
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    row = current(swarm)
    await swarm.put(
        Update(obj=replace(row, update_status=UpdateStatus(state="paused")), seen=row.version)
    )
    await updated(swarm, replace(web(), labels={"a": "b"}))
    assert current(swarm).update_status is None


async def test_numbers_of_spec_versions_are_never_used_twice():
    swarm = await new_swarm()
    service_id = (await swarm.control.create_service(web())).id
    for replicas in (2, 3):
        await updated(swarm, replace(web(), mode=scaled(replicas)))
    row = current(swarm)  # as a rollback leaves it: back to an older version
    await swarm.put(
        Update(obj=replace(row, spec_version=1, previous_spec_version=3), seen=row.version)
    )
    await updated(swarm, replace(web(), mode=scaled(4)))
    assert (current(swarm).spec_version, current(swarm).previous_spec_version) == (4, 1)
    assert swarm.view.specs.count("service", service_id) == 4


async def test_update_that_replaces_tasks_keeps_the_spec_before():
    swarm = await new_swarm()
    service_id = (await swarm.control.create_service(web())).id
    await swarm.put(task_of(service_id, "t1", slot=1, node_id=SELF))
    await updated(swarm, web(env=["A=1"]))
    row = current(swarm)
    assert (row.spec_version, row.previous_spec_version, row.update_status) == (2, 1, None)
    assert spec_of(swarm.view, row).task_template.container_spec.env == ["A=1"]


@pytest.mark.parametrize(
    ("state", "version"),
    [
        ("paused", 2),
        ("updating", 2),
        ("completed", 1),
        ("", 1),
        ("rollback_started", 2),
        ("rollback_paused", 2),
        ("rollback_completed", 1),
    ],
)
async def test_update_to_the_same_spec_is_a_new_try_only_where_one_did_not_end(state, version):
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    row = current(swarm)
    status = UpdateStatus(state=state) if state else None
    await swarm.put(Update(obj=replace(row, update_status=status), seen=row.version))
    await updated(swarm, web())
    assert current(swarm).update_status is None
    assert current(swarm).spec_version == version


def auth_of(swarm):
    row = current(swarm)
    return swarm.view.specs.get(spec_version_id(row.id, row.spec_version)).registry_auth


async def test_registry_credentials_stay_until_others_are_given():
    swarm = await new_swarm()
    await swarm.control.create_service(web(), registry_auth="first")
    assert auth_of(swarm) == "first"
    await updated(swarm, web(env=["A=1"]))
    assert auth_of(swarm) == "first"
    await updated(swarm, web(env=["A=1"]), registry_auth="second")
    assert (auth_of(swarm), current(swarm).spec_version) == ("second", 3)
    await updated(swarm, web(env=["A=2"]), auth_from="previous-spec")
    assert auth_of(swarm) == "first"
    await updated(swarm, web(env=["A=2"]), registry_auth="")
    assert auth_of(swarm) == ""


async def test_registry_credentials_of_nowhere_are_refused():
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    with pytest.raises(FailedPreconditionError, match="does not have a previous spec"):
        await updated(swarm, web(), auth_from="previous-spec")
    with pytest.raises(UnknownValueError, match="unsupported registryAuthFrom value zzz"):
        await updated(swarm, web(), auth_from="zzz")


async def test_update_settings_may_change_at_any_time():
    swarm = await new_swarm()
    service_id = (await swarm.control.create_service(web())).id
    await swarm.put(task_of(service_id, "t1", slot=1, node_id=SELF))
    await updated(swarm, replace(web(), update_config=UpdateConfig(parallelism=3)))
    assert spec_of(swarm.view, current(swarm)).update_config.order == "stop-first"


@pytest.mark.parametrize(
    ("spec", "status", "sentence"),
    [
        (web("other"), 501, "renaming services is not supported"),
        (
            replace(web(), mode=ServiceMode(global_=Empty())),
            501,
            "service mode change is not allowed",
        ),
        (replace(web(), mode=scaled(-1)), 400, "Replicas must not be negative, but is -1"),
        (replace(web(), labels={"": ""}), 400, "Labels: a label needs a name before its value"),
    ],
)
async def test_bad_update_is_refused_and_changes_nothing(spec, status, sentence):
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    before = swarm.view.index
    with pytest.raises(SwarmError) as refused:
        await updated(swarm, spec)
    assert (refused.value.http_status, refused.value.message) == (status, sentence)
    assert swarm.view.index == before


async def test_stale_update_is_refused_in_dockers_words():
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    version = current(swarm).version
    await updated(swarm, web())
    with pytest.raises(StaleVersionError) as refused:
        await swarm.control.update_service("web", version, web(replicas=3))
    assert refused.value.message == "rpc error: code = Unknown desc = update out of sequence"
    with pytest.raises(NotFoundError, match="service nope not found"):
        await swarm.control.update_service("nope", 1, web())


async def test_removed_service_is_gone_and_its_name_free():
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    await swarm.control.remove_service("web")
    assert len(swarm.view.services) == 0
    with pytest.raises(NotFoundError, match="service web not found"):
        await swarm.control.remove_service("web")
    await swarm.control.create_service(web())


# References --------------------------------------------------------------------------------------
def using(secret_id="", config_id="", name="a"):
    target = FileTarget(name="t")
    secrets = [SecretReference(secret_id=secret_id, secret_name=name, file=target)]
    configs = [ConfigReference(config_id=config_id, config_name=name, file=target)]
    return web(secrets=secrets if secret_id else [], configs=configs if config_id else [])


async def test_missing_secret_or_config_is_refused_in_dockers_words():
    swarm = await new_swarm()
    secret_id = await swarm.control.create_secret(SecretSpec(name="a", data=b"x"))
    config_id = await swarm.control.create_config(ConfigSpec(name="a", data=b"x"))
    check_references(swarm.view, using(secret_id, config_id))
    for spec, sentence in (
        (using("nope"), "secret not found: a"),
        (using(secret_id, name="b"), "secret not found: b"),
        (using("", "nope"), "config not found: a"),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await swarm.control.create_service(spec)
        assert refused.value.message == sentence
    await swarm.control.create_service(using(secret_id, config_id))


def test_all_a_spec_relies_on_is_guarded():
    spec = using("s", "c")
    task = replace(spec.task_template, networks=[NetworkAttachmentConfig(target="n")])
    ports = [
        PortConfig(protocol="tcp", target_port=80, published_port=8080, publish_mode="host"),
        PortConfig(protocol="tcp", target_port=81, publish_mode="host"),
    ]
    spec = replace(spec, task_template=task, endpoint_spec=EndpointSpec(ports=ports))
    assert guards_of("me", spec) == [
        Exists(table=Secret, id="s"),
        Exists(table=Config, id="c"),
        Exists(table=Network, id="n"),
        PortFree(service_id="me", protocol="tcp", port=8080, mode="host"),
    ]


# Races -------------------------------------------------------------------------------------------
async def outcome(verb) -> str:
    try:
        await verb
    except SwarmError as refused:
        return refused.code
    return "done"


async def both(first, second):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(verb)) for verb in (first, second)]
    return [task.result() for task in tasks]


async def test_of_two_services_of_one_name_created_at_once_one_wins_a_thousand_times():
    swarm = await new_swarm()
    for turn in range(1_000):
        name = f"web{turn}"
        results = await both(
            swarm.control.create_service(web(name)), swarm.control.create_service(web(name))
        )
        assert sorted(results) == ["conflict", "done"]
    assert len(swarm.view.services) == len(swarm.view.specs) == 1_000


async def test_of_two_updates_from_one_version_one_wins():
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    for turn in range(200):
        version = current(swarm).version
        update = swarm.control.update_service
        results = await both(
            update("web", version, web(replicas=2 * turn + 2)),
            update("web", version, web(replicas=2 * turn + 3)),
        )
        assert sorted(results) == ["done", "out-of-sequence"]


async def create_using(swarm, secret_id, turn):
    """What the verb will do once secrets are delivered: read, then commit with the spec's
    guards."""
    await swarm.control.read()
    spec = normal_service(replace(using(secret_id, name=f"s{turn}"), name=f"web{turn}"))
    service_id = f"w{turn}"
    changes = [
        Create(obj=SpecVersion(id=f"w{turn}@1", service_id=service_id, number=1, spec=spec)),
        Create(obj=Service(id=service_id, name=spec.name)),
    ]
    await swarm.store.commit(changes, guards_of(service_id, spec))


async def test_of_removing_a_secret_and_using_it_one_wins_a_thousand_times():
    swarm = await new_swarm()
    wins = {"create": 0, "remove": 0}
    for turn in range(1_000):
        secret_id = await swarm.control.create_secret(SecretSpec(name=f"s{turn}", data=b"x"))
        pair = [create_using(swarm, secret_id, turn), swarm.control.remove_secret(secret_id)]
        results = await both(*(pair if turn % 2 else reversed(pair)))
        assert results.count("done") == 1
        used = swarm.view.services.get(f"w{turn}") is not None
        assert used == (swarm.view.secrets.get(secret_id) is not None)
        wins["create" if used else "remove"] += 1
    assert wins == {"create": 500, "remove": 500}


async def test_used_secret_is_named_with_its_service_when_it_cannot_be_removed():
    swarm = await new_swarm()
    secret_id = await swarm.control.create_secret(SecretSpec(name="a", data=b"x"))
    spec = normal_service(using(secret_id))
    await swarm.put(
        Create(obj=SpecVersion(id="w@1", service_id="w", number=1, spec=spec)),
        Create(obj=Service(id="w", name="web")),
    )
    with pytest.raises(FailedPreconditionError) as refused:
        await swarm.control.remove_secret("a")
    assert refused.value.message == "secret 'a' is in use by the following service: web"
    await swarm.control.remove_service("web")
    await swarm.control.remove_secret("a")

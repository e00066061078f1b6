"""Secrets and configs at the agent: waited for, made files, in memory alone, forgotten in time."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.agent.inventory import GapError, Inventory
from swarmlet.agent.payloads import Payloads, check_references
from swarmlet.env.real import RealDisk
from swarmlet.model.container import (
    ConfigReference,
    ContainerSpec,
    FileTarget,
    SecretReference,
)
from swarmlet.model.node import NodeDescription
from swarmlet.model.task import TaskState as S
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.wire.messages import AssignedPayload, AssignedTask, Assignments
from tests.agent.fake_runtime import FakeRuntime, Script
from tests.agent.fakes import FakeManager, assigned, items, new_agent, payload_items
from tests.agent.virtual_time import run_virtual, until, virtual_env

TREASURE = b"tr3asure-of-an-agent"


def target(name: str, **more) -> FileTarget:
    return FileTarget(**{"name": name, "uid": "0", "gid": "0", "mode": 0o444, **more})


def asking(task_id: str = "t", **container) -> AssignedTask:
    """A task that refers to the secret s as key and the config c as /conf."""
    spec = ContainerSpec(
        image="host",
        secrets=[SecretReference(file=target("key"), secret_id="s", secret_name="key")],
        configs=[ConfigReference(file=target("/conf"), config_id="c", config_name="conf")],
        env=["COLOR=red", "BARE"],
    )
    return assigned(task_id, container=replace(spec, **container))


def payload(payload_id: str, data: bytes = TREASURE, templating: str = "") -> AssignedPayload:
    return AssignedPayload(id=payload_id, name=payload_id, data=data, templating=templating)


def held(config: bytes = b"plain", templating: str = "golang") -> dict:
    return {("secret", "s"): payload("s"), ("config", "c"): payload("c", config, templating)}


async def files(payloads: Payloads, task: AssignedTask):
    return await payloads.files(task, lambda: NodeDescription(hostname="host1"))


def made(config: bytes, templating: str = "golang", **container) -> bytes:
    """What the config of the task says once it is a file."""

    async def main() -> bytes:
        payloads = Payloads()
        payloads.replace(held(config, templating))
        return (await files(payloads, asking(**container)))[1].data

    return asyncio.run(main())


def test_files_have_the_target_owner_and_mode_of_the_reference():
    async def main():
        payloads = Payloads()
        payloads.replace(held(templating=""))
        odd = target("k", uid="12", gid="34", mode=0o400)
        reference = SecretReference(file=odd, secret_id="s", secret_name="key")
        secret, config = await files(payloads, asking(secrets=[reference]))
        assert (secret.kind, secret.name, secret.data) == ("secret", "k", TREASURE)
        assert (secret.uid, secret.gid, secret.mode) == (12, 34, 0o400)
        assert (config.kind, config.name, config.mode) == ("config", "/conf", 0o444)
        assert "tr3asure" not in repr([secret, payloads, held()])

    asyncio.run(main())


def test_missing_payload_fails_in_dockers_words():
    async def main():
        payloads = Payloads()
        payloads.replace({})
        with pytest.raises(
            RuntimeProblemError,
            match="unable to get secret from secret store: secret s not found",
        ):
            await files(payloads, asking())

    asyncio.run(main())


TEMPLATES = [
    (b"{{.Service.Name}}-{{.Task.ID}}-{{.Node.Hostname}}", b"web-t-host1"),
    (b'{{secret "key"}}', TREASURE),
    (b'{{config "/conf"}}', b'{{config "/conf"}}'),  # as it is stored, not expanded again
    (b'{{env "COLOR"}}|{{env "BARE"}}|{{env "NONE"}}', b"red||"),
    (b'{{if eq (env "COLOR") "red"}}yes{{end}}', b"yes"),
    (b"\xff{{.Task.Slot}}\x00", b"\xff1\x00"),
]


@pytest.mark.parametrize(("text", "wanted"), TEMPLATES)
def test_templated_payload_is_expanded_with_the_tasks_context(text, wanted):
    assert made(text) == wanted
    assert made(text, templating="") == text


WRONG = [
    (b'{{secret "other"}}', "secret target other not found"),
    (b'{{config "/etc/other"}}', "config target /etc/other not found"),
    (b"{{.Nothing}}", "The template is wrong at line 1, column 3"),
    (b'{{ (secret "key").X }}', "The template is wrong at line 1"),
    (b'{{ index (secret "key") 1 }}', "The template is wrong at line 1"),
    (b"{{tr3asure}}", "The template is wrong at line 1"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_template_that_does_not_fit_fails_without_a_secret_word(text, words):
    with pytest.raises(RuntimeProblemError, match="expanding config c failed: ") as problem:
        made(text)
    assert words in problem.value.message
    assert "tr3asure" not in f"{problem.value.message} {problem.value.remedy}"


def test_unknown_template_driver_is_an_error():
    with pytest.raises(RuntimeProblemError, match="unrecognized template type: jinja"):
        made(b"x", templating="jinja")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (target("k", uid="root"), 'The secret key cannot belong to "root"'),
        (target("k", gid="-1"), 'cannot belong to "-1"'),
        (target("k", uid="4294967295"), "cannot belong to"),
        (target("k", uid="1" * 5000), "cannot belong to"),
        (target("k", mode=0o10000), "cannot have the mode"),
        (target("a\0b"), "no target provided"),
        (None, "no target provided"),
    ],
    ids=str,
)
def test_reference_that_makes_no_file_is_refused(file, words):
    reference = SecretReference(file=file, secret_id="s", secret_name="key")
    with pytest.raises(RuntimeProblemError, match=words):
        check_references(asking(secrets=[reference]))
    check_references(asking())
    check_references(asking(secrets=[replace(reference, file=target("k", uid="", gid="9"))]))


# The inventory -----------------------------------------------------------------------------------
class HeldWorker:
    """A worker that is ready, or not yet."""

    def __init__(self) -> None:
        self.payloads, self.is_ready = Payloads(), asyncio.Event()
        self.had: list[int] = []

    def assign(self, put, gone, *, is_complete) -> None:
        self.had.append(len(self.payloads))


def told(number: int, *, complete=False, put=(), gone=(), has_more=False) -> Assignments:
    return Assignments(
        is_complete=complete,
        applies_to=number - 1,
        results_in=number,
        put=put,
        gone=gone,
        has_more=has_more,
    )


def test_payloads_are_there_before_their_tasks_and_go_after_them():
    worker = HeldWorker()
    worker.is_ready.set()
    inventory = Inventory(worker)
    one, two = payload_items(held())
    inventory.take(told(1, complete=True, put=(one,), has_more=True))
    assert not worker.payloads.is_told.is_set()
    inventory.take(told(2, complete=True, put=(two, *items(asking()))))
    assert worker.payloads.is_told.is_set()
    inventory.take(told(3, gone=(("secret", "s"), ("task", "t"), ("config", "c"))))
    inventory.take(told(4, put=(one, *items(asking()))))
    assert worker.had == [2, 2, 1]
    inventory.take(told(5, complete=True))
    assert len(worker.payloads) == 0
    with pytest.raises(GapError):
        inventory.take(told(7))


CHANGES = st.lists(
    st.tuples(st.sampled_from(["s", "c"]), st.booleans(), st.booleans()), max_size=12
)


@given(CHANGES)
def test_what_is_held_is_what_was_said(changes):
    worker, wanted = HeldWorker(), {}
    inventory = Inventory(worker)
    inventory.take(told(0, complete=True))
    for number, (name, is_put, is_complete) in enumerate(changes, 1):
        key = ("secret" if name == "s" else "config", name)
        put = payload_items({key: held()[key]}) if is_put else ()
        gone = () if is_put or is_complete else (key,)
        inventory.take(told(number, complete=is_complete, put=put, gone=gone))
        wanted = {} if is_complete else wanted
        wanted = wanted | {key: 1} if is_put else {k: 1 for k in wanted if k not in gone}
        assert len(worker.payloads) == len(wanted)


# The whole agent ---------------------------------------------------------------------------------
def with_agent(tmp_path, story, wants=(), script=Script()):  # noqa: B008 - it is frozen
    async def main():
        env = virtual_env(RealDisk())
        runtime, manager = FakeRuntime(env.clock, lambda _: script), FakeManager()
        manager.wanted = {task.id: task for task in wants}

        def start(group):
            agent = new_agent(env, runtime, manager, str(tmp_path / "agent"))
            return agent, group.create_task(agent.run())

        async with asyncio.TaskGroup() as group:
            serving = group.create_task(manager.run())
            await story(group, start, runtime, manager)
            serving.cancel()

    run_virtual(main())


def test_task_starts_with_its_files_and_nothing_of_them_is_on_disk(tmp_path):
    async def story(group, start, runtime, manager):
        agent, running = start(group)
        manager.payloads = held()
        await until(lambda: manager.state("t") == S.RUNNING)
        assert [file.data for file in runtime.tasks["t"].files] == [TREASURE, b"plain"]
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or TREASURE not in path.read_bytes()
        await agent.stop()
        await running

    with_agent(tmp_path, story, [asking()])


def test_restarted_agent_adopts_what_runs_and_starts_the_rest_once_it_was_told(tmp_path):
    async def story(group, start, runtime, manager):
        manager.payloads = held()
        manager.wanted["later"] = replace(asking("later"), desired=int(S.READY))
        agent, running = start(group)
        await until(lambda: manager.state("t") == S.RUNNING and manager.state("later") == S.READY)
        await agent.stop()
        await running
        manager.is_up = False
        again, running = start(group)
        await asyncio.sleep(30)
        assert runtime.running() == ["t"]
        assert runtime.tasks["t"].starts == 1
        manager.wanted["later"] = asking("later")
        manager.is_up = True
        await until(lambda: manager.state("later") == S.RUNNING)
        assert runtime.tasks["later"].files[0].data == TREASURE
        await again.stop()
        await running

    with_agent(tmp_path, story, [asking()])


def test_task_that_was_being_started_as_the_daemon_died_waits_for_its_payloads(tmp_path):
    async def story(group, start, runtime, manager):
        manager.payloads = held()
        _, running = start(group)
        await until(lambda: manager.state("t") == S.STARTING)
        running.cancel()  # as a crash
        await asyncio.wait([running])
        manager.is_up = False
        again, running = start(group)
        await asyncio.sleep(100)
        assert runtime.tasks["t"].starts == 0
        manager.is_up = True
        await until(lambda: manager.state("t") == S.RUNNING)
        assert runtime.tasks["t"].files[0].data == TREASURE
        await again.stop()
        await running

    with_agent(tmp_path, story, [asking()], Script(start_s=20))


def test_task_without_its_payload_fails_and_one_without_an_owner_is_rejected(tmp_path):
    async def story(group, start, runtime, manager):
        named = SecretReference(file=target("k", uid="me"), secret_id="s", secret_name="key")
        agent, running = start(group)
        await until(lambda: manager.state("t") == S.FAILED)
        assert "secret s not found" in manager.statuses["t"].err
        await manager.assign(asking("u", secrets=[named]))
        await until(lambda: manager.state("u") == S.REJECTED)
        assert runtime.running() == []
        await agent.leave()
        await running

    with_agent(tmp_path, story, [asking()])

"""`service history`, `diff`, `plan`, `rollback`, and `update --if-version`."""

import json

import pytest

from tests.cli import recorded

SERVICE_ID = "j877x32im7k8b5vwj28l97tvd"
V1 = f"/swarmlet/v1/services/{SERVICE_ID}"


@pytest.fixture
def web(swarm):
    service = recorded.service(SERVICE_ID, "web", {"Replicated": {"Replicas": 2}})
    service["Version"] = {"Index": 57}
    swarm.script["GET /services/web"] = (200, service)
    swarm.script[f"POST {V1}/rollback"] = (200, {"Warnings": None})
    swarm.script[f"POST /services/{SERVICE_ID}/update"] = (200, {"Warnings": None})
    return service


def revision(number, **fields):
    made = {"Number": number, "CreatedAt": "2024-01-01T00:00:00Z", "Spec": {}}
    return {**made, "IsCurrent": False, "IsPrevious": False, **fields}


def test_history_names_what_each_changed_and_where_a_rollback_went(swarmlet, swarm, web):
    container = "TaskTemplate.ContainerSpec"
    many = [f"{container}.Image", "Labels.a", "Labels.b", "TaskTemplate.Placement.MaxReplicas"]
    swarm.script[f"GET {V1}/history"] = (
        200,
        [
            revision(4, IsCurrent=True, Repeats=1, Cause="manually requested rollback", Changed=[]),
            revision(3, IsPrevious=True, Changed=many),
            revision(2, Changed=["TaskTemplate.Placement.MaxReplicas"]),
            revision(1),
        ],
    )
    form = "{{.Rev}}|{{.Status}}|{{.Changed}}|{{.Note}}"
    result = swarmlet("service", "history", "--format", form, "web")
    assert result.out.splitlines() == [
        "4|current|nothing|back to 1: manually requested rollback",
        "3|previous|Image, Labels.a, Labels.b, and 1 more|",
        "2||Placement.MaxReplicas|",
        "1||-|",
    ]
    whole = swarmlet("service", "history", "--no-trunc", "--format", "{{.Changed}}", "web").out
    assert "Labels.b, Placement.MaxReplicas" in whole
    assert swarmlet("service", "history", "web").out.startswith("REV       CREATED")


def test_diff_shows_entries_of_lists_and_values_of_fields(swarmlet, swarm, web):
    changes = [
        {"Path": "Mode.Replicated.Replicas", "Old": 2, "New": None},
        {"Path": "X.Env", "Old": ["A=1", "B=2"], "New": ["A=1", "C=3"]},
        {"Path": "X.Order", "Old": ["a", "b"], "New": ["b", "a"]},
        {"Path": "X.Mounts", "Old": None, "New": [{"Type": "bind"}]},
    ]
    swarm.script[f"GET {V1}/diff"] = (200, {"Old": 2, "New": 3, "Changes": changes})
    result = swarmlet("service", "diff", "web", "2")
    assert result.out.splitlines() == [
        "--- web 2",
        "+++ web 3",
        "Mode.Replicated.Replicas",
        "  - 2",
        "X.Env",
        "  - B=2",
        "  + C=3",
        "X.Order (in another order)",
        "X.Mounts",
        '  + {"Type": "bind"}',
    ]
    (asked,) = [one for one in swarm.requests if one.path.endswith("/diff")]
    assert asked.query == {"from": "2"}
    swarm.script[f"GET {V1}/diff"] = (200, {"Old": 3, "New": 3, "Changes": []})
    assert swarmlet("service", "diff", "web", "3", "3").out.endswith("Nothing differs.\n")


def planned(**fields):
    tasks = [
        {"Slot": 1, "Action": "replace", "TaskID": "t1", "FromNodeID": recorded.NODE_ID}
        | {"NodeID": recorded.NODE_ID},
        {"Slot": 2, "Action": "create", "Reason": "no suitable node"},
        {"Slot": 3, "Action": "keep", "TaskID": "t3", "FromNodeID": recorded.NODE_ID},
    ]
    changes = [{"Path": "Labels.a", "Old": None, "New": "b"}]
    made = {"Version": {"Index": 57}, "Revision": 2, "Changes": changes, "Tasks": tasks}
    made |= {"IsJob": False, "IsScheduled": False}
    return {**made, "Parallelism": 1, "Order": "stop-first", **fields}


def test_plan_shows_changes_tasks_and_the_version_and_fails_without_a_place(swarmlet, swarm, web):
    swarm.script[f"POST {V1}/plan"] = (200, planned())
    result = swarmlet("service", "plan", "--label-add", "a=b", "web")
    assert result.code == 3
    assert "1 new tasks of web would find no place: no suitable node" in result.err
    lines = result.out.splitlines()
    assert lines[:4] == [
        "Service web at version 57:",
        "Labels.a",
        "  + b",
        "Tasks: 1 replaced, 1 created, 1 kept; replaced 1 at a time, stop-first.",
    ]
    assert lines[5].split()[:2] == ["web.1", "replace"]
    assert lines[6].split() == ["web.2", "create", "-", "-", "no", "suitable", "node"]
    assert lines[-1].endswith("swarmlet service update --if-version 57 ...")
    (sent,) = [one for one in swarm.requests if one.path.endswith("/plan")]
    assert sent.body["Labels"] == {"a": "b"}
    assert not [one for one in swarm.requests if one.path.endswith("/update")]


@pytest.mark.parametrize(
    ("mode", "names"),
    [("ReplicatedJob", ["web.0", "web.1"]), ("Global", ["web.vm"] * 2)],
)
def test_plan_names_tasks_as_service_ps_does(swarmlet, swarm, web, mode, names):
    web["Spec"]["Mode"] = {mode: {}}
    tasks = [
        {"Slot": slot if mode == "ReplicatedJob" else 0, "Action": "create"}
        | {"NodeID": recorded.NODE_ID}
        for slot in (0, 1)
    ]
    swarm.script[f"POST {V1}/plan"] = (200, planned(Tasks=tasks, IsJob=mode == "ReplicatedJob"))
    lines = swarmlet("service", "plan", "web").out.splitlines()
    assert [line.split()[0] for line in lines[-3:-1]] == names
    assert ("begins its next iteration" in lines[3]) == (mode == "ReplicatedJob")


def test_plan_that_fits_ends_well_and_is_printed_as_json_on_request(swarmlet, swarm, web):
    answer = planned(Tasks=[], Changes=[], Parallelism=0)
    swarm.script[f"POST {V1}/plan"] = (200, answer)
    result = swarmlet("service", "plan", "--format", "json", "--to", "3", "web")
    assert (result.code, json.loads(result.out)) == (0, answer)
    (sent,) = [one for one in swarm.requests if one.path.endswith("/plan")]
    assert sent.query == {"to": "3"}
    text = swarmlet("service", "plan", "web").out
    assert "Nothing differs.\nTasks: nothing happens." in text
    many = [{"Slot": n, "Action": "replace", "NodeID": "", "FromNodeID": ""} for n in range(1, 31)]
    swarm.script[f"POST {V1}/plan"] = (200, planned(Tasks=many, Parallelism=0, IsJob=False))
    text = swarmlet("service", "plan", "web").out
    assert "30 replaced; replaced all at once, stop-first." in text
    assert "and 10 more (--format json lists all)" in text


def test_plan_of_a_rollback_ends_with_the_command_for_it_and_takes_no_changes(swarmlet, swarm, web):
    swarm.script[f"POST {V1}/plan"] = (200, planned(Tasks=[]))
    lines = swarmlet("service", "plan", "--to", "3", "web").out.splitlines()
    assert lines[-1].endswith(": swarmlet service rollback --to 3 --if-version 57 web")
    for flags in (["--replicas", "0"], ["--label-add", "a=b"], ["--force"], ["--args", ""]):
        result = swarmlet("service", "plan", "--to", "3", *flags, "web")
        assert result.code == 2
        assert "--to does not go with flags that change the service" in result.err


def test_rollback_names_the_version_it_saw_and_where_to_go(swarmlet, swarm, web):
    assert swarmlet("service", "rollback", "-d", "web").out == "web\n"
    assert swarmlet("service", "rollback", "-d", "--to", "3", "--if-version", "57", "web").code == 0
    sent = [one.query for one in swarm.requests if one.path.endswith("/rollback")]
    assert sent == [{"version": "57"}, {"version": "57", "to": "3"}]


@pytest.mark.parametrize("verb", ["update", "rollback"])
def test_change_is_not_made_to_another_version_than_the_one_that_was_seen(
    swarmlet, swarm, web, verb
):
    result = swarmlet("service", verb, "-d", "--if-version", "56", "web")
    assert result.code == 1
    assert "Service web has version 57, not 56: it was changed meanwhile." in result.err
    assert not swarm.posted()
    assert swarmlet("service", verb, "-d", "--if-version", "57", "web").code == 0
    assert len(swarm.posted()) == 1


def under_way(web, *states):
    """The service as a waiting command reads it, look after look."""
    messages = {"rollback_started": "because of t1"}
    return [
        (200, {**web, "UpdateStatus": {"State": state, "Message": messages.get(state, "")}})
        for state in states
    ]


def test_update_that_is_rolled_back_ends_with_its_cause_though_all_tasks_run(swarmlet, swarm, web):
    web["Spec"]["UpdateConfig"] = {"Monitor": 1}
    tasks = [recorded.task(f"t{slot}", slot, "running") for slot in (1, 2)]
    swarm.script["GET /tasks"] = (200, tasks)
    states = ("updating", "updating", "rollback_started", "rollback_completed")
    swarm.script[f"GET /services/{SERVICE_ID}"] = under_way(web, *states)
    result = swarmlet("service", "update", "--label-add", "a=b", "web")
    assert result.code == 4
    assert "The update of web failed and was rolled back: because of t1" in result.err
    swarm.script[f"GET /services/{SERVICE_ID}"] = under_way(web, *states[2:])
    assert swarmlet("service", "rollback", "web").code == 0
    swarm.script[f"GET /services/{SERVICE_ID}"] = under_way(web, *states[:2], "completed")
    result = swarmlet("service", "update", "--label-add", "a=b", "web")
    assert result.code == 0
    assert "verify: Watching the tasks until the update is complete" in result.out


def test_update_that_was_rolled_back_between_two_looks_ends_with_the_cause_on_record(
    swarmlet, swarm, web
):
    web["Spec"]["UpdateConfig"] = {"Monitor": 1}
    tasks = [recorded.task(f"t{slot}", slot, "running") for slot in (1, 2)]
    swarm.script["GET /tasks"] = (200, tasks)
    swarm.script[f"GET /services/{SERVICE_ID}"] = under_way(web, "updating", "rollback_completed")
    kept = [revision(3, IsCurrent=True, Repeats=1, Cause="because of t1"), revision(2), revision(1)]
    swarm.script[f"GET {V1}/history"] = (200, kept)
    result = swarmlet("service", "update", "--label-add", "a=b", "web")
    assert result.code == 4
    assert "The update of web failed and was rolled back: because of t1" in result.err

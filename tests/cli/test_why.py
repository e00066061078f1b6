"""`why` lays out what the daemon says, and its exit code says how things stand."""

import json

import pytest

from tests.cli.recorded import NODE_ID

WHY = "/swarmlet/v1"
REASON = {
    "Code": "no-suitable-node",
    "Sentence": "No node can take it: 3 nodes are drained; nearest: w2, which lacks only 1 CPU.",
    "Remedy": "free 1 CPU on w2",
    "Verdict": "unplaced",
}


def ref(number: int, **fields):
    return {"ID": f"t{number}", "Name": f"web.{number}", "State": "pending", **fields}


def group(*numbers: int, count: int = 0, reason=REASON):
    return {"Count": count or len(numbers), "Tasks": [*map(ref, numbers)], "Reason": reason}


def service(**fields):
    known = {"ID": "s1", "Name": "web", "Verdict": "well", "Running": 3, "Wanted": 3}
    return {**known, "Reasons": [], "Waiting": [], "Lately": [], "Unshown": 0, **fields}


def node(**fields):
    known = {"ID": NODE_ID, "Hostname": "vm", "Verdict": "well", "Running": 2, "Wanted": 2}
    ready = {"Code": "ready", "Sentence": "vm is ready for 3 h.", "Verdict": "well"}
    return {
        **known,
        "Reasons": [ready],
        "Resources": [
            {"What": "cpu", "Total": 4_000_000_000, "Reserved": 1_500_000_000},
            {"What": "memory", "Total": 2 << 30, "Reserved": 1 << 29},
            {"What": "gpu", "Total": 2, "Reserved": 2},
        ],
        "Services": [{"ServiceID": "s1", "ServiceName": "web", "Running": 2}],
        "MoreServices": 0,
        "Waiting": [],
        "Lately": [],
        "Unshown": 0,
        **fields,
    }


def test_service_that_runs_is_one_line(swarmlet, daemon):
    daemon.script = {f"GET {WHY}/services/web/why": (200, service())}
    result = swarmlet("service", "why", "web")
    assert (result.code, result.out, result.err) == (0, "web: 3 of 3 tasks run.\n", "")


def test_tasks_without_a_place_are_grouped_and_few_are_named(swarmlet, daemon):
    failed = {"Code": "failed", "Sentence": "It failed 9 s ago on vm: boom.", "Verdict": "well"}
    again = {**group(1, reason=failed), "Tasks": [ref(1), ref(1), ref(1)], "Count": 3}
    paused = {"Code": "update-paused", "Sentence": "Its update is paused.", "Verdict": "unsettled"}
    found = service(
        Verdict="unplaced",
        Running=1,
        Wanted=101,
        Reasons=[paused],
        Waiting=[group(*range(2, 12), count=100)],
        Lately=[again],
        Unshown=7,
    )
    daemon.script = {f"GET {WHY}/services/web/why": (200, found)}
    result = swarmlet("service", "why", "web")
    assert result.code == 3
    assert result.out.splitlines() == [
        "web: 1 of 101 tasks runs.",
        "  Its update is paused.",
        "",
        "web.2, web.3, web.4 and 97 more: pending",
        f"  {REASON['Sentence']}",
        "    Try: free 1 CPU on w2",
        "",
        "7 tasks more do not run, for other reasons.",
        "",
        "Failed lately:",
        "web.1 (3 times)",
        "  It failed 9 s ago on vm: boom.",
    ]


def test_node_shows_what_is_reserved_and_free(swarmlet, swarm):
    swarm.script[f"GET {WHY}/nodes/{NODE_ID}/why"] = (200, node())
    for names in ([], ["self"], [NODE_ID]):
        result = swarmlet("node", "why", *names)
        assert result.code == 0
        assert result.out.splitlines() == [
            "vm: 2 of 2 tasks run.",
            "  vm is ready for 3 h.",
            "  Runs web (2).",
            "  CPUs: 1.5 of 4 reserved, 2.5 free.",
            "  Memory: 512MiB of 2GiB reserved, 1.5GiB free.",
            "  gpu: 2 of 2 reserved, 0 free.",
        ]


def test_task_says_its_state_and_its_reason(swarmlet, daemon):
    found = {
        **ref(2),
        "DesiredState": "running",
        "ServiceID": "s1",
        "ServiceName": "web",
        "NodeID": "",
        "Hostname": "",
        "Verdict": "unplaced",
        "Reason": REASON,
    }
    daemon.script = {f"GET {WHY}/tasks/t2/why": (200, found)}
    result = swarmlet("task", "why", "t2")
    assert result.code == 3
    assert result.out.startswith("web.2: pending, and should be running.\n  No node can take it")


@pytest.mark.parametrize(("verdict", "code"), [("well", 0), ("unsettled", 1), ("unplaced", 3)])
def test_exit_code_says_how_things_stand_in_every_format(swarmlet, daemon, verdict, code):
    found = service(Verdict=verdict)
    daemon.script = {f"GET {WHY}/services/web/why": (200, found)}
    for form in ([], ["--format", "json"], ["--format", "{{.Name}}"]):
        assert swarmlet("service", "why", *form, "web").code == code
    result = swarmlet("service", "why", "--format", "json", "web")
    assert json.loads(result.out) == found
    assert swarmlet("service", "why", "--format", "{{.Verdict}}", "web").out == f"{verdict}\n"


def test_words_of_a_task_do_not_steer_the_terminal(swarmlet, daemon):
    reason = {**REASON, "Sentence": "It said \x1b[2J and\nmore."}
    daemon.script = {f"GET {WHY}/services/web/why": (200, service(Reasons=[reason]))}
    out = swarmlet("service", "why", "web").out
    assert "\x1b" not in out
    assert out.count("\n") == 3  # the headline, the sentence, the remedy


def test_unknown_service_is_said_by_the_daemon(swarmlet, daemon):
    daemon.script = {f"GET {WHY}/services/web/why": (404, {"message": "service web not found"})}
    result = swarmlet("service", "why", "web")
    assert (result.code, result.err) == (1, "Error: service web not found\n")


def test_ids_of_tasks_are_completed(daemon):
    from click.shell_completion import get_completion_class

    from swarmlet.cli.main import root

    daemon.script = {"GET /tasks": (200, [{"ID": "abc"}, {"ID": "xyz"}])}
    complete = get_completion_class("bash")(root, {}, "swarmlet", "_SWARMLET_COMPLETE")
    found = complete.get_completions(["--host", daemon.socket_path, "task", "why"], "a")
    assert [item.value for item in found] == ["abc"]

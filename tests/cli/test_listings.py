"""Listings and inspections look like docker's, byte for byte."""

import json

import pytest

from tests.cli import recorded


@pytest.fixture
def swarm(daemon):
    web = recorded.services()[0]
    daemon.script = {
        "GET /nodes": (200, [recorded.NODE]),
        "GET /info": (200, recorded.INFO),
        "GET /swarmlet/v1/members": (200, recorded.GROUP),
        f"GET /nodes/{recorded.NODE_ID}": (200, recorded.NODE),
        "GET /services": (200, recorded.services()),
        "GET /services/api-web": (200, web),
        "GET /tasks": (200, recorded.tasks()),
    }
    return daemon


def test_node_ls_prints_dockers_table(swarmlet, swarm):
    result = swarmlet("node", "ls")
    assert (result.code, result.out, result.err) == (0, recorded.NODE_LS, "")


def test_listing_uses_one_connection(swarmlet, swarm):
    swarmlet("node", "ls")
    assert [request.path for request in swarm.requests] == ["/nodes", "/info"]
    assert swarm.connections == 1


def test_node_ls_quiet_prints_ids_and_asks_for_no_more(swarmlet, swarm):
    assert swarmlet("node", "ls", "-q").out == f"{recorded.NODE_ID}\n"
    assert [request.path for request in swarm.requests] == ["/nodes"]


def test_node_ls_sends_filters_as_docker_does(swarmlet, swarm):
    swarmlet("node", "ls", "-f", "role=manager", "--filter", "name=vm", "-f", "name=x")
    filters = json.loads(swarm.requests[0].query["filters"])
    assert filters == {"role": {"manager": True}, "name": {"vm": True, "x": True}}


def test_node_ls_formats_with_a_template(swarmlet, swarm):
    assert swarmlet("node", "ls", "--format", "{{.Hostname}}: {{.Status}}").out == "vm: Ready\n"


def test_node_ls_formats_a_table_with_a_template(swarmlet, swarm):
    result = swarmlet("node", "ls", "--format", r"table {{.Hostname}}\t{{.ManagerStatus}}")
    assert result.out == "HOSTNAME  MANAGER STATUS\nvm        Leader\n".replace(
        "HOSTNAME  ", "HOSTNAME   "
    ).replace("vm        ", "vm         ")


def test_node_ls_formats_as_json(swarmlet, swarm):
    row = json.loads(swarmlet("node", "ls", "--format", "json").out)
    assert row == {
        "Availability": "Active",
        "EngineVersion": "29.8.0-dev",
        "Hostname": "vm",
        "ID": recorded.NODE_ID,
        "ManagerStatus": "Leader",
        "Self": True,
        "Status": "Ready",
        "TLSStatus": "Ready",
    }


def test_unknown_field_in_a_format_is_said_with_the_known_ones(swarmlet, swarm):
    result = swarmlet("node", "ls", "--format", "{{.Host}}")
    assert result.code == 1
    assert "there is no field .Host" in result.err
    assert ".Hostname" in result.err


def test_node_inspect_pretty_prints_dockers_lines(swarmlet, swarm):
    assert swarmlet("node", "inspect", "--pretty", "self").out == recorded.NODE_PRETTY


def test_node_inspect_prints_the_daemons_json_indented(swarmlet, swarm):
    result = swarmlet("node", "inspect", "self")
    assert json.loads(result.out) == [recorded.NODE]
    assert '\n        "ID": "iiuj' in result.out


def test_node_inspect_formats_what_is_there_and_what_is_not(swarmlet, swarm):
    form = "{{.Status.State}} {{.Spec.Labels.zone}}"
    assert swarmlet("node", "inspect", "-f", form, "self").out == "ready <no value>\n"


def test_inspect_prints_what_it_found_and_fails_for_the_rest(swarmlet, swarm):
    swarm.script["GET /nodes/nope"] = (404, {"message": "node nope not found"})
    result = swarmlet("node", "inspect", "nope")
    assert (result.code, result.out) == (1, "[]\n")
    assert result.err == "Error: node nope not found\n"
    both = swarmlet("node", "inspect", "self", "nope")
    assert json.loads(both.out) == [recorded.NODE]
    assert both.code == 1


def test_node_update_changes_labels_and_availability(swarmlet, swarm):
    node = {**recorded.NODE, "Spec": {"Labels": {"old": "1"}, "Availability": "active"}}
    swarm.script["GET /nodes/vm"] = (200, node)
    swarm.script[f"POST /nodes/{recorded.NODE_ID}/update"] = (200, None)
    result = swarmlet(
        "node",
        "update",
        "--label-add",
        "zone=a",
        "--label-rm",
        "old",
        "--availability",
        "drain",
        "vm",
    )
    assert (result.code, result.out) == (0, "vm\n")
    posted = swarm.posted()[0]
    assert posted.query == {"version": "23"}
    assert posted.body == {"Labels": {"zone": "a"}, "Availability": "drain"}


def test_service_ls_prints_dockers_table(swarmlet, swarm):
    result = swarmlet("service", "ls")
    assert result.out == recorded.SERVICE_LS
    assert swarm.requests[0].query == {"status": "true"}


def test_service_ls_collapses_runs_of_ports(swarmlet, swarm):
    found = recorded.services()[0]
    found["Endpoint"]["Ports"] = [
        {"Protocol": "tcp", "TargetPort": 80 + n, "PublishedPort": 8000 + n} for n in (2, 0, 1, 5)
    ]
    swarm.script["GET /services"] = (200, [found])
    ports = swarmlet("service", "ls", "--format", "{{.Ports}}").out
    assert ports == "*:8000-8002->80-82/tcp, *:8005->85/tcp\n"


def test_service_ps_prints_dockers_table_with_history(swarmlet, swarm):
    result = swarmlet("service", "ps", "api-web")
    assert (result.code, result.out) == (0, recorded.SERVICE_PS)


def test_service_ps_resolves_self_and_passes_filters(swarmlet, swarm):
    swarmlet("service", "ps", "-f", "node=self", "-f", "desired-state=running", "api-web")
    asked = next(request for request in swarm.requests if request.path == "/tasks")
    assert json.loads(asked.query["filters"]) == {
        "service": {"j877x32im7k8b5vwj28l97tvd": True},
        "node": {recorded.NODE_ID: True},
        "desired-state": {"running": True},
    }


def test_service_ps_without_resolving_prints_ids(swarmlet, swarm):
    out = swarmlet(
        "service", "ps", "--no-resolve", "--format", "{{.Name}} {{.Node}}", "api-web"
    ).out
    assert out.splitlines()[0] == f"j877x32im7k8b5vwj28l97tvd.1 {recorded.NODE_ID}"


def test_service_ps_of_an_unknown_service_fails_with_a_remedy(swarmlet, swarm):
    swarm.script["GET /services/nope"] = (404, {"message": "service nope not found"})
    result = swarmlet("service", "ps", "nope")
    assert result.code == 1
    assert result.err == (
        "Error: There is no service 'nope'.\n  Try: `swarmlet service ls` lists what there is.\n"
    )


def test_service_ls_marks_what_crashes_in_a_loop(swarmlet, swarm):
    web = recorded.services()[2]
    web["Spec"]["Mode"] = {"Replicated": {"Replicas": 3}}
    web["ServiceStatus"] = {"RunningTasks": 2, "DesiredTasks": 3, "CrashLoopingTasks": 1}
    swarm.script["GET /services"] = (200, [web])
    result = swarmlet("service", "ls", "--format", "{{.Replicas}}")
    assert result.out == "2/3 (max 4 per node, 1 crash-looping)\n"
    web["Spec"]["TaskTemplate"]["Placement"] = {}
    assert swarmlet("service", "ls", "--format", "{{.Replicas}}").out == "2/3 (1 crash-looping)\n"


def test_node_ps_lists_this_nodes_tasks(swarmlet, swarm):
    result = swarmlet("node", "ps")
    assert result.out == recorded.SERVICE_PS


def test_service_inspect_pretty_prints_dockers_lines(swarmlet, swarm):
    web = recorded.service("j877x32im7k8b5vwj28l97tvd", "api-web", {"Replicated": {"Replicas": 2}})
    policy = {"Parallelism": 1, "FailureAction": "pause", "MaxFailureRatio": 0}
    policy["Order"] = "stop-first"
    web["Spec"]["UpdateConfig"] = {**policy, "Monitor": 1000000000}
    web["Spec"]["RollbackConfig"] = {**policy, "Monitor": 5000000000}
    container = web["Spec"]["TaskTemplate"]["ContainerSpec"]
    container["Image"], container["Init"] = "busybox:latest", False
    swarm.script["GET /services/api-web"] = (200, web)
    assert swarmlet("service", "inspect", "--pretty", "api-web").out == recorded.SERVICE_PRETTY


def test_service_inspect_pretty_prints_all_there_is(swarmlet, swarm):
    web = recorded.services()[2]
    spec = web["Spec"]
    spec["UpdateConfig"] = {"Parallelism": 2, "Delay": 90_000_000_000, "MaxFailureRatio": 0.5}
    task = spec["TaskTemplate"]
    task["Placement"]["Constraints"] = ["node.role==manager"]
    task["Placement"]["Preferences"] = [{"Spread": {"SpreadDescriptor": "node.labels.dc"}}]
    task["Resources"] = {"Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 67_108_864}}
    task["ContainerSpec"] |= {"Command": ["sh"], "Env": ["A=1", "B=2"], "Dir": "/d", "User": "u"}
    for kind in ("Config", "Secret"):
        reference = {"File": {"Name": f"to-{kind}"}, f"{kind}Name": f"from-{kind}"}
        task["ContainerSpec"][f"{kind}s"] = [reference]
    web["UpdateStatus"] = {
        "State": "completed",
        "StartedAt": "2026-11-22T18:02:40Z",
        "CompletedAt": "2026-11-22T18:03:40Z",
        "Message": "update completed",
    }
    swarm.script["GET /services/api-full"] = (200, web)
    lines = swarmlet("service", "inspect", "--pretty", "api-full").out.splitlines()
    for line in (
        "UpdateStatus:",
        " State:\t\tcompleted",
        " Message:\tupdate completed",
        " Constraints:\t[node.role==manager]",
        " Preferences:\t[spread=node.labels.dc]",
        " Max Replicas Per Node:\t4",
        " Delay:\t\t1m30s",
        " Max failure ratio: 0.5",
        " Env:\t\tA=1 B=2 ",
        " User:\t\tu",
        " Limits:",
        "  CPU:\t\t0.5",
        "  Memory:\t64MiB",
        " PublishedPort = 18080",
        "  PublishMode = host",
    ):
        assert line in lines
    at = lines.index("Configs:")
    assert lines[at : at + 6] == [
        "Configs:",
        " Target:\tto-Config",
        "  Source:\tfrom-Config",
        "Secrets:",
        " Target:\tto-Secret",
        "  Source:\tfrom-Secret",
    ]
    for name in ("Started", "Completed"):
        (line,) = (line for line in lines if line.startswith(f" {name}:\t"))
        assert line.endswith(" ago")


def test_node_inspect_pretty_of_a_worker_with_labels(swarmlet, swarm):
    worker = {**recorded.NODE, "Spec": {"Name": "w", "Labels": {"zone": "a"}}}
    del worker["ManagerStatus"]
    worker["Status"] = {"State": "down", "Message": "heartbeat failure"}
    worker["Description"] = {"Hostname": "w", "Engine": {"Labels": {"x": "y"}}}
    swarm.script["GET /nodes/w"] = (200, worker)
    lines = swarmlet("node", "inspect", "--pretty", "w").out.splitlines()
    for line in (" - zone=a", " Message:\t\tHeartbeat failure", "Engine Labels:", " - x=y"):
        assert line in lines
    assert "Manager Status:" not in lines


def test_service_rm_prints_what_it_removed_and_what_it_could_not(swarmlet, swarm):
    swarm.script["DELETE /services/api-web"] = (200, None)
    swarm.script["DELETE /services/nope"] = (404, {"message": "service nope not found"})
    result = swarmlet("service", "rm", "api-web", "nope")
    assert (result.code, result.out) == (1, "api-web\n")
    assert result.err == "Error: service nope not found\n"


def test_aliases_of_ls_and_rm_work(swarmlet, swarm):
    assert swarmlet("node", "list").out == recorded.NODE_LS


def test_info_prints_the_swarm_and_the_host(swarmlet, swarm):
    out = swarmlet("info").out
    for line in (
        "Swarm: active",
        " Is Manager: true",
        "  Expiry Duration: 3 months",
        "  Heartbeat Period: 5 seconds",
        "  127.0.0.1:2377",
        "  Quorum: 1 of 1, 1 answer",
        f"  127.0.0.1:2377  vm  {recorded.NODE_ID}  leader, this node",
        "Total Memory: 23.54GiB",
        "Default Runtime: process",
    ):
        assert line in out.splitlines()
    assert swarmlet("info", "--format", "{{.Swarm.NodeID}}").out == f"{recorded.NODE_ID}\n"


def test_version_prints_both_sides(swarmlet, swarm):
    swarm.script["GET /version"] = (
        200,
        {
            "Version": "9",
            "ApiVersion": "1.52",
            "Components": [
                {"Name": "Engine", "Version": "9"},
                {"Name": "runtime docker", "Version": "20.10.24"},
            ],
        },
    )
    result = swarmlet("version", "--format", "{{.Server.Version}} {{.Client.APIVersion}}")
    assert result.out == "9 1.52\n"
    assert "  API version:      1.52 (minimum version )" in swarmlet("version").out
    assert " runtime docker:\n  Version:          20.10" in swarmlet("version").out
    assert json.loads(swarmlet("version", "--format", "json").out)["Server"]["Version"] == "9"


def test_version_without_a_daemon_prints_its_own_and_fails(swarmlet, swarm):
    swarm.script["GET /version"] = (503, {"message": "not now"})
    result = swarmlet("version")
    assert (result.code, result.err) == (1, "Error: not now\n")
    assert result.out.startswith("Client:\n Version: ")


def test_info_outside_a_swarm_is_short_and_warnings_go_to_stderr(swarmlet, swarm):
    found = {"Swarm": {"LocalNodeState": "inactive"}, "Warnings": ["mind the gap"]}
    swarm.script["GET /info"] = (200, found)
    result = swarmlet("info")
    assert result.out.startswith("Swarm: inactive\nServer Version:")
    assert result.err == "mind the gap\n"

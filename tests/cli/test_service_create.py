"""`service create` sends docker's spec, field by field."""

import json
import shlex

import pytest

from tests.cli import recorded

SERVICE_ID = "tt3nfkdvx0xxvtfwnmsyslliu"
FULL = shlex.split(
    "service create -d --name api-full --secret api-sec"
    " --config source=api-conf,target=/c,mode=0400 --network name=api-net,alias=al"
    " --publish 18080:80 --publish mode=host,target=81,published=18081"
    " --mount type=volume,src=api-vol,dst=/data --constraint node.role==manager --limit-cpu .5"
    " --limit-memory 64M --reserve-memory 16M --env A=1 --health-cmd true"
    " --restart-max-attempts 3 --restart-delay 2s --placement-pref spread=node.labels.dc"
    " --replicas-max-per-node 4 --hostname h-{{.Task.Slot}} --stop-grace-period 5s"
    " --container-label cl=1 --with-registry-auth --log-driver json-file --log-opt max-size=1m"
    " --dns 1.1.1.1 --host a:1.2.3.4 --user 1000 --workdir / --read-only --init"
    " --cap-add NET_ADMIN --sysctl net.core.somaxconn=10 --ulimit nofile=100:200"
    " --update-delay 1s --update-order start-first --rollback-parallelism 2"
    " busybox:latest sleep 1000"
)
# docker 28's body for this command line, without the monitoring periods nobody asked for.
FULL_BODY = json.loads("""
{"Name": "api-full", "Labels": {}, "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest",
"Labels": {"cl": "1"}, "Args": ["sleep", "1000"], "Hostname": "h-{{.Task.Slot}}", "Env": ["A=1"],
"Dir": "/", "User": "1000", "Init": true, "ReadOnly": true, "Mounts": [{"Type": "volume",
"Source": "api-vol", "Target": "/data"}], "StopGracePeriod": 5000000000,
"Healthcheck": {"Test": ["CMD-SHELL", "true"]}, "Hosts": ["1.2.3.4 a"],
"DNSConfig": {"Nameservers": ["1.1.1.1"]}, "Secrets": [{"File": {"Name": "api-sec", "UID": "0",
"GID": "0", "Mode": 292}, "SecretID": "o3jacl8k17iohbrmvdt8bepi7", "SecretName": "api-sec"}],
"Configs": [{"File": {"Name": "/c", "UID": "0", "GID": "0", "Mode": 256},
"ConfigID": "8z4f8s9lovel0k784i0ad23ea", "ConfigName": "api-conf"}],
"Sysctls": {"net.core.somaxconn": "10"}, "CapabilityAdd": ["CAP_NET_ADMIN"],
"Ulimits": [{"Name": "nofile", "Hard": 200, "Soft": 100}]},
"Resources": {"Limits": {"NanoCPUs": 500000000, "MemoryBytes": 67108864},
"Reservations": {"MemoryBytes": 16777216}}, "RestartPolicy": {"Condition": "any",
"Delay": 2000000000, "MaxAttempts": 3}, "Placement": {"Constraints": ["node.role==manager"],
"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.dc"}}], "MaxReplicas": 4},
"Networks": [{"Target": "rte1umsox0o0cu657ew2mwdgv", "Aliases": ["al"]}],
"LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}}, "ForceUpdate": 0},
"Mode": {"Replicated": {}}, "UpdateConfig": {"Parallelism": 1, "Delay": 1000000000,
"FailureAction": "pause", "MaxFailureRatio": 0, "Order": "start-first"},
"RollbackConfig": {"Parallelism": 2, "FailureAction": "pause", "MaxFailureRatio": 0,
"Order": "stop-first"}, "EndpointSpec": {"Mode": "vip", "Ports": [{"Protocol": "tcp",
"TargetPort": 80, "PublishedPort": 18080, "PublishMode": "ingress"}, {"Protocol": "tcp",
"TargetPort": 81, "PublishedPort": 18081, "PublishMode": "host"}]}}
""")
SMALL_BODY = {
    "Name": "api-web",
    "Labels": {"a": "b"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "busybox:latest",
            "Args": ["sleep", "1000"],
            "Init": False,
            "DNSConfig": {},
        },
        "Resources": {"Limits": {}, "Reservations": {}},
        "Placement": {},
        "ForceUpdate": 0,
    },
    "Mode": {"Replicated": {"Replicas": 2}},
    "EndpointSpec": {"Mode": "vip"},
}


@pytest.fixture
def swarm(daemon):
    daemon.script = {
        "GET /networks/api-net": (200, {"Id": "rte1umsox0o0cu657ew2mwdgv"}),
        "GET /secrets": (200, [{"ID": "o3jacl8k17iohbrmvdt8bepi7", "Spec": {"Name": "api-sec"}}]),
        "GET /configs": (200, [{"ID": "8z4f8s9lovel0k784i0ad23ea", "Spec": {"Name": "api-conf"}}]),
        "POST /services/create": (201, {"ID": SERVICE_ID, "Warnings": None}),
    }
    return daemon


def created(daemon):
    return next(r.body for r in daemon.posted() if r.path == "/services/create")


def test_every_flag_lands_where_docker_puts_it(swarmlet, swarm):
    result = swarmlet(*FULL)
    assert (result.code, result.out) == (0, f"{SERVICE_ID}\n")
    assert created(swarm) == FULL_BODY
    asked = [(request.method, request.path) for request in swarm.requests]
    assert ("GET", "/distribution/busybox%3Alatest/json") in asked
    assert "could not be accessed on a registry" in result.err


def test_few_flags_make_dockers_small_spec(swarmlet, swarm):
    flags = shlex.split("-d --name api-web --replicas 2 -l a=b")
    swarmlet("service", "create", *flags, "busybox", "sleep", "1000")
    assert created(swarm) == SMALL_BODY


def test_host_image_is_no_image_and_asks_no_registry(swarmlet, swarm):
    result = swarmlet("service", "create", "-d", "host", "sh", "-c", "exit 0")
    container = created(swarm)["TaskTemplate"]["ContainerSpec"]
    assert (container["Image"], container["Args"]) == ("host", ["sh", "-c", "exit 0"])
    assert [r.path for r in swarm.requests] == ["/services/create"]
    assert result.err == ""


def test_digest_and_platforms_are_pinned_when_a_registry_knows_them(swarmlet, swarm):
    swarm.script["GET /distribution/busybox%3Alatest/json"] = (
        200,
        {
            "Descriptor": {"digest": "sha256:12"},
            "Platforms": [
                {"architecture": "amd64", "os": "linux"},
                {"architecture": "unknown", "os": "unknown"},
                {"architecture": "arm", "os": "linux", "variant": "v7"},
            ],
        },
    )
    swarmlet("service", "create", "-d", "busybox")
    template = created(swarm)["TaskTemplate"]
    assert template["ContainerSpec"]["Image"] == "busybox:latest@sha256:12"
    assert template["Placement"]["Platforms"] == [
        {"Architecture": "amd64", "OS": "linux"},
        {"Architecture": "", "OS": "linux"},
    ]


def test_environment_takes_values_of_this_shell_and_files(swarmlet, swarm, monkeypatch, tmp_path):
    monkeypatch.setenv("KNOWN", "here")
    monkeypatch.delenv("UNKNOWN", raising=False)
    file = tmp_path / "env"
    file.write_text("# a comment\n\nFROM=file\nBOTH=file\nUNKNOWN\nKNOWN\n")
    flags = ["-e", "BOTH=flag", "-e", "UNKNOWN", "--env-file", str(file)]
    swarmlet("service", "create", "-d", *flags, "host", "x")
    env = created(swarm)["TaskTemplate"]["ContainerSpec"]["Env"]
    assert env == ["FROM=file", "KNOWN=here", "BOTH=flag", "UNKNOWN"]


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (["--mode", "global"], {"Global": {}}),
        (["--mode", "global-job"], {"GlobalJob": {}}),
        (
            ["--mode", "replicated-job", "--replicas", "4", "--max-concurrent", "2"],
            {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 4}},
        ),
        (
            ["--mode", "replicated-job"],
            {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}},
        ),
        (["--replicas", "0"], {"Replicated": {"Replicas": 0}}),
    ],
)
def test_mode_is_dockers(flags, mode, swarmlet, swarm):
    swarmlet("service", "create", "-d", *flags, "host", "x")
    assert created(swarm)["Mode"] == mode


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--limit-memory", "lots"], ["--limit-memory", "invalid size 'lots'", "64M"]),
        (["--limit-cpu", "-1"], ["--limit-cpu", "invalid number of CPUs"]),
        (["--update-max-failure-ratio", "nan"], ["--update-max-failure-ratio", "0<=x<=1"]),
        (["--restart-delay", "5"], ["--restart-delay", "invalid duration '5'"]),
        (["--restart-condition", "never"], ["'never' is not one of"]),
        (["--replicas", "-1"], ["--replicas", "-1"]),
        (["--mode", "global", "--replicas", "2"], ["--replicas does not go with --mode global"]),
        (["--max-concurrent", "2"], ["replicated-job"]),
        (["--publish", "0:80"], ["--publish '0:80'", "'0' is no port from 1 to 65535"]),
        (["--publish", "80:99999"], ["'99999' is no port"]),
        (["-p", "1.2.3.4:80:80"], ["address in it is not supported"]),
        (["-p", "80:80/icmp"], ["protocol must be tcp or udp or sctp, not 'icmp'"]),
        (["-p", "8000-8001:80-82"], ["equally long"]),
        (["-p", "8001-8000:80-81"], ["empty"]),
        (["-p", "mode=host,published=80"], ["target=PORT is missing"]),
        (["-p", "target=80,mode=global"], ["mode must be ingress or host"]),
        (["-p", "target=80,foo=1"], ["unknown field 'foo'", "published"]),
        (["--mount", "type=bind,source=/x"], ["target is missing"]),
        (["--mount", "target=/x,ro=maybe"], ["ro cannot be 'maybe'"]),
        (["--mount", "target=/x,nope"], ["unknown field 'nope'"]),
        (["--secret", "target=x"], ["has no source=NAME"]),
        (["--secret", "source=x,mode=9"], ["'9' is not octal"]),
        (["--ulimit", "nofile"], ["NAME=SOFT[:HARD]"]),
        (["--host", "a"], ["NAME:IP"]),
        (["--placement-pref", "binpack"], ["spread=node.labels.KEY"]),
        (["--label", "=x"], ["key is missing"]),
        (["--env", "=x"], ["has no name"]),
        (["--entrypoint", "sh 'x"], ["Invalid command"]),
        (["--no-healthcheck", "--health-cmd", "x"], ["--no-healthcheck does not go with"]),
        (["--env-file", "/nowhere/env"], ["/nowhere/env"]),
        (["--timeout", "long"], ["--timeout", "invalid duration 'long'"]),
        (["--imit-cpu", "1"], ["--limit-cpu"]),
    ],
)
def test_bad_values_are_usage_errors_that_name_the_flag_and_change_nothing(
    flags, words, swarmlet, swarm
):
    result = swarmlet("service", "create", "-d", *flags, "host", "x")
    assert result.code in (1, 2)
    assert (result.code == 1) is (flags[0] == "--env-file")
    for word in words:
        assert word in result.err
    assert not swarm.posted()


@pytest.mark.parametrize("content", [b"\xff\xfe=1\n", b"A=\0\n", b"A=1\n" * 1_048_576])
def test_environment_file_that_is_no_text_is_a_usage_error(content, swarmlet, swarm, tmp_path):
    (tmp_path / "env").write_bytes(content)
    result = swarmlet("service", "create", "--env-file", str(tmp_path / "env"), "host", "x")
    assert result.code == 2
    assert f"{tmp_path}/env is no text of KEY=VALUE lines" in result.err
    assert not swarm.posted()


def test_doubt_about_an_image_is_not_said_of_a_service_that_is_refused(swarmlet, swarm):
    assert "could not be accessed" in swarmlet("service", "create", "-d", "nginx").err
    swarm.script["POST /services/create"] = (400, {"message": "invalid image reference"})
    result = swarmlet("service", "create", "-d", "nginx")
    assert (result.code, result.err) == (1, "Error: invalid image reference\n")


def test_missing_secret_is_said_before_anything_is_sent(swarmlet, swarm):
    result = swarmlet("service", "create", "-d", "--secret", "nope", "host", "x")
    assert (result.code, result.err.splitlines()[0]) == (1, "Error: secret not found: nope")
    assert not swarm.posted()


def test_refusal_of_the_daemon_is_printed_with_its_remedy(swarmlet, swarm):
    swarm.script["POST /services/create"] = (
        501,
        {"message": "ingress ports are not built yet", "remedy": "Use mode=host."},
    )
    result = swarmlet("service", "create", "-p", "80:80", "host", "x")
    assert result.code == 1
    assert result.err == "Error: ingress ports are not built yet\n  Try: Use mode=host.\n"


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", [("tcp", 80, None, "ingress")]),
        ("8080:80/UDP", [("udp", 80, 8080, "ingress")]),
        ("8000-8001:80-81", [("tcp", 80, 8000, "ingress"), ("tcp", 81, 8001, "ingress")]),
        ("mode=host,target=80,published=0", [("tcp", 80, None, "host")]),
        ("published=8080,target=80,protocol=udp", [("udp", 80, 8080, "ingress")]),
    ],
)
def test_ports_read_in_both_forms(text, ports, swarmlet, swarm):
    swarmlet("service", "create", "-d", "-p", text, "host", "x")
    sent = created(swarm)["EndpointSpec"]["Ports"]
    keys = ("Protocol", "TargetPort", "PublishedPort", "PublishMode")
    assert [tuple(port.get(key) for key in keys) for port in sent] == ports


def test_mounts_read_as_docker_has_them(swarmlet, swarm):
    flags = [
        "--mount",
        'type=volume,source=v,target=/a,readonly,"volume-opt=o=addr=1.2.3.4,rw",volume-label=k=v',
        "--mount",
        "type=tmpfs,dst=/b,tmpfs-size=1M,tmpfs-mode=1770",
    ]
    swarmlet("service", "create", "-d", *flags, "host", "x")
    assert created(swarm)["TaskTemplate"]["ContainerSpec"]["Mounts"] == [
        {
            "Type": "volume",
            "Source": "v",
            "Target": "/a",
            "ReadOnly": True,
            "VolumeOptions": {
                "DriverConfig": {"Options": {"o": "addr=1.2.3.4,rw"}},
                "Labels": {"k": "v"},
            },
        },
        {
            "Type": "tmpfs",
            "Target": "/b",
            "TmpfsOptions": {"SizeBytes": 1048576, "Mode": 0o1770},
        },
    ]


# Changes ----------------------------------------------------------------------------------------
@pytest.fixture
def web(swarm):
    found = recorded.services()[0]
    found["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] = ["A=1", "B=2"]
    swarm.script["GET /services/api-web"] = (200, found)
    swarm.script[f"POST /services/{found['ID']}/update"] = (200, {"Warnings": ["mind the gap"]})
    return found


def test_scale_sends_the_whole_spec_with_its_version(swarmlet, swarm, web):
    result = swarmlet("service", "scale", "-d", "api-web=5")
    assert (result.code, result.out) == (0, "api-web scaled to 5\n")
    assert result.err == "mind the gap\n"
    posted = swarm.posted()[0]
    assert posted.query["version"] == "29"
    web["Spec"]["Mode"] = {"Replicated": {"Replicas": 5}}
    assert posted.body == web["Spec"]


def test_scale_refuses_a_global_service(swarmlet, swarm, web):
    web["Spec"]["Mode"] = {"Global": {}}
    result = swarmlet("service", "scale", "-d", "api-web=5")
    assert result.code == 1
    assert "api-web is a global service" in result.err


def test_update_changes_what_the_flags_name_and_nothing_else(swarmlet, swarm, web):
    flags = (
        "--replicas 4 --label-add x=y --label-rm a --env-add B=3 --env-rm A --constraint-add"
        " node.role==worker --limit-cpu 2 --force --args 'sleep 5' --publish-add 90:90"
        " --update-delay 2s --secret-add api-sec"
    )
    result = swarmlet("service", "update", "-d", *shlex.split(flags), "api-web")
    assert (result.code, result.out) == (0, "api-web\n")
    sent = swarm.posted()[0].body
    task = sent["TaskTemplate"]
    assert sent["Mode"] == {"Replicated": {"Replicas": 4}}
    assert sent["Labels"] == {"x": "y"}
    assert task["ContainerSpec"]["Env"] == ["B=3"]
    assert task["ContainerSpec"]["Args"] == ["sleep", "5"]
    assert task["ContainerSpec"]["Secrets"][0]["SecretName"] == "api-sec"
    assert task["ContainerSpec"]["Image"] == "busybox:latest@sha256:1234"
    assert task["Placement"] == {"Constraints": ["node.role==worker"]}
    assert task["Resources"] == {"Limits": {"NanoCPUs": 2_000_000_000}}
    assert task["ForceUpdate"] == 1
    assert sent["EndpointSpec"]["Ports"][0]["TargetPort"] == 90
    assert sent["UpdateConfig"]["Delay"] == 2_000_000_000


def test_update_of_labels_alone_leaves_the_tasks_spec_as_it_was(swarmlet, swarm, web):
    del web["Spec"]["TaskTemplate"]["Placement"]
    swarmlet("service", "update", "-d", "--label-add", "x=y", "api-web")
    assert swarm.posted()[0].body == {**web["Spec"], "Labels": {"a": "b", "x": "y"}}


def test_stale_version_is_said_with_the_remedy(swarmlet, swarm, web):
    swarm.script[f"POST /services/{web['ID']}/update"] = (
        500,
        {
            "message": "rpc error: code = Unknown desc = update out of sequence",
            "remedy": "Read it again.",
        },
    )
    result = swarmlet("service", "update", "-d", "--replicas", "2", "api-web")
    assert (result.code, result.err) == (
        1,
        "Error: update out of sequence\n  Try: Read it again.\n",
    )


def test_strategy_and_wishes_beside_services_are_sent_in_dockers_words(swarmlet, daemon):
    wishes = ("--placement-pref", "service==cache", "--placement-pref", "service!=batch")
    flags = ("--detach", "--no-resolve-image", "--strategy", "binpack", *wishes)
    swarmlet("service", "create", *flags, "--constraint", "service!=db", "host", "sleep")
    sent = daemon.posted()[-1].body
    assert sent["Labels"] == {"swarmlet.strategy": "binpack"}
    assert sent["TaskTemplate"]["Placement"] == {
        "Constraints": ["service!=db"],
        "Preferences": [
            {"Spread": {"SpreadDescriptor": "service==cache"}},
            {"Spread": {"SpreadDescriptor": "service!=batch"}},
        ],
    }

"""Objects as dockerd 29 sent them to docker 28, and what docker printed for them."""

from datetime import UTC, datetime, timedelta
from typing import Any

NODE_ID = "iiujifj7d1kls9rdbhf883hax"
TOKEN = "SWMTKN-1-634cmp5rlp632ezmxa1zpejnvpw3bajpavqnak9cohp4y08cau-9ltdtkwcpr11xf4vtlqw8gs92"
TLS_INFO = {
    "TrustRoot": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "CertIssuerSubject": "MBMxETAPBgNVBAMTCHN3YXJtLWNh",
    "CertIssuerPublicKey": "MFkwEwYHKoZIzj0CAQ==",
}
NODE: dict[str, Any] = {
    "ID": NODE_ID,
    "Version": {"Index": 23},
    "CreatedAt": "2026-11-22T18:02:40.821048013Z",
    "UpdatedAt": "2026-11-22T18:02:51.10150772Z",
    "Spec": {"Labels": {}, "Role": "manager", "Availability": "active"},
    "Description": {
        "Hostname": "vm",
        "Platform": {"Architecture": "x86_64", "OS": "linux"},
        "Resources": {"NanoCPUs": 2000000000, "MemoryBytes": 25276510208},
        "Engine": {
            "EngineVersion": "29.8.0-dev",
            "Plugins": [
                {"Type": "Log", "Name": "json-file"},
                {"Type": "Log", "Name": "local"},
                {"Type": "Network", "Name": "overlay"},
            ],
        },
        "TLSInfo": TLS_INFO,
    },
    "Status": {"State": "ready", "Addr": "127.0.0.1"},
    "ManagerStatus": {"Leader": True, "Reachability": "reachable", "Addr": "127.0.0.1:2377"},
}
INFO: dict[str, Any] = {
    "Swarm": {
        "NodeID": NODE_ID,
        "NodeAddr": "127.0.0.1",
        "LocalNodeState": "active",
        "ControlAvailable": True,
        "Error": "",
        "RemoteManagers": [{"NodeID": NODE_ID, "Addr": "127.0.0.1:2377"}],
        "Nodes": 1,
        "Managers": 1,
        "Cluster": {
            "ID": "u0ksprvjwlewgcsscg987jcgn",
            "TLSInfo": TLS_INFO,
            "RootRotationInProgress": False,
            "DataPathPort": 4789,
            "Spec": {
                "Orchestration": {"TaskHistoryRetentionLimit": 5},
                "Raft": {"SnapshotInterval": 10000, "ElectionTick": 10, "HeartbeatTick": 1},
                "Dispatcher": {"HeartbeatPeriod": 5000000000},
                "CAConfig": {"NodeCertExpiry": 7776000000000000},
                "EncryptionConfig": {"AutoLockManagers": False},
            },
        },
    },
    "ServerVersion": "29.8.0-dev",
    "KernelVersion": "6.18",
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
    "Architecture": "x86_64",
    "NCPU": 2,
    "MemTotal": 25276510208,
    "Name": "vm",
    "ID": "61e31b44",
    "DockerRootDir": "/srv",
    "Runtimes": {"process": {}},
    "DefaultRuntime": "process",
}
GROUP: dict[str, Any] = {
    "Term": 3,
    "Applied": 120,
    "Quorum": 1,
    "Answering": 1,
    "LostSince": None,
    "AsOf": None,
    "Members": [
        {
            "RaftID": "7",
            "NodeID": NODE_ID,
            "Hostname": "vm",
            "Addr": "127.0.0.1:2377",
            "IsVoter": True,
            "IsLeader": True,
            "Reachability": "reachable",
            "SilentSince": None,
        }
    ],
}
NODE_LS = """\
ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION
iiujifj7d1kls9rdbhf883hax *   vm         Ready     Active         Leader           29.8.0-dev
"""
NODE_PRETTY = """\
ID:\t\t\tiiujifj7d1kls9rdbhf883hax
Hostname:              \tvm
Joined at:             \t2026-11-22 18:02:40.821048013 +0000 utc
Status:
 State:\t\t\tReady
 Availability:         \tActive
 Address:\t\t127.0.0.1
Manager Status:
 Address:\t\t127.0.0.1:2377
 Raft Status:\t\tReachable
 Leader:\t\tYes
Platform:
 Operating System:\tlinux
 Architecture:\t\tx86_64
Resources:
 CPUs:\t\t\t2
 Memory:\t\t23.54GiB
Plugins:
 Log:\t\tjson-file, local
 Network:\t\toverlay
Engine Version:\t\t29.8.0-dev
TLS Info:
 TrustRoot:
-----BEGIN CERTIFICATE-----
MIIB
-----END CERTIFICATE-----

 Issuer Subject:\tMBMxETAPBgNVBAMTCHN3YXJtLWNh
 Issuer Public Key:\tMFkwEwYHKoZIzj0CAQ==
"""
SERVICE_LS = """\
ID             NAME       MODE             REPLICAS               IMAGE            PORTS
tt3nfkdvx0xx   api-full   replicated       0/1 (max 4 per node)   busybox:latest   *:18080->80/tcp
u6pxu1pxnwqq   api-gjob   global job       0/0 (1/1 completed)    busybox:latest   
krtthjvw368y   api-glob   global           1/1                    busybox:latest   
y2qg84madalg   api-job    replicated job   0/1 (2/2 completed)    busybox:latest   
j877x32im7k8   api-web    replicated       3/3                    busybox:latest   
"""  # noqa: W291 - docker's tables end in spaces where the last column is empty
SERVICE_PS = """\
ID             NAME            IMAGE            NODE      DESIRED STATE   CURRENT STATE           ERROR                              PORTS
oh46iz5ujgo1   api-web.1       busybox:latest   vm        Running         Running 3 seconds ago                                      *:8080->80/tcp
u3o3spwv5djd    \\_ api-web.1   busybox:latest   vm        Shutdown        Failed 9 seconds ago    "starting container failed: fa…"   
nxq9x2o0u92l   api-web.2       busybox:latest             Running         Pending 3 seconds ago                                      
"""  # noqa: E501, W291 - docker's own lines
SERVICE_PRETTY = """\

ID:\t\tj877x32im7k8b5vwj28l97tvd
Name:\t\tapi-web
Labels:
 a=b
Service Mode:\tReplicated
 Replicas:\t2
Placement:
UpdateConfig:
 Parallelism:\t1
 On failure:\tpause
 Monitoring Period: 1s
 Max failure ratio: 0
 Update order:      stop-first
RollbackConfig:
 Parallelism:\t1
 On failure:\tpause
 Monitoring Period: 5s
 Max failure ratio: 0
 Rollback order:    stop-first
ContainerSpec:
 Image:\t\tbusybox:latest
 Args:\t\tsleep 1000 
 Init:\t\tfalse
Resources:
Endpoint Mode:\tvip

"""  # noqa: W291 - docker's own line


def stamp(ago_s: float = 0) -> str:
    """A time as the daemon writes it, a little before now."""
    return (datetime.now(UTC) - timedelta(seconds=ago_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def service(service_id: str, name: str, mode: dict[str, Any], **extra: Any) -> dict[str, Any]:
    spec = {
        "Name": name,
        "Labels": {"a": "b"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox:latest@sha256:1234", "Args": ["sleep", "1000"]},
            "Placement": {},
            "ForceUpdate": 0,
        },
        "Mode": mode,
        "EndpointSpec": {"Mode": "vip"},
    }
    return {"ID": service_id, "Version": {"Index": 29}, "Spec": spec, "Endpoint": {}, **extra}


def status(running: int, desired: int, completed: int = 0) -> dict[str, int]:
    return {"RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": completed}


def services() -> list[dict[str, Any]]:
    port = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 18080, "PublishMode": "ingress"}
    on_host = {"Protocol": "tcp", "TargetPort": 81, "PublishedPort": 81, "PublishMode": "host"}
    full = service(
        "tt3nfkdvx0xxvtfwnmsyslliu",
        "api-full",
        {"Replicated": {"Replicas": 1}},
        ServiceStatus=status(0, 1),
        Endpoint={"Ports": [port, on_host]},
    )
    full["Spec"]["TaskTemplate"]["Placement"]["MaxReplicas"] = 4
    web = service(
        "j877x32im7k8b5vwj28l97tvd",
        "api-web",
        {"Replicated": {"Replicas": 3}},
        ServiceStatus=status(3, 3),
    )
    glob = service(
        "krtthjvw368yhxovgpu2fnm1b", "api-glob", {"Global": {}}, ServiceStatus=status(1, 1)
    )
    job = service(
        "y2qg84madalgwnhg41hb20xtp",
        "api-job",
        {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 2}},
        ServiceStatus=status(0, 1, 2),
    )
    global_job = service(
        "u6pxu1pxnwqqa1b2c3d4e5f6g", "api-gjob", {"GlobalJob": {}}, ServiceStatus=status(0, 0, 1)
    )
    return [web, glob, full, job, global_job]


def task(task_id: str, slot: int, state: str, **extra: Any) -> dict[str, Any]:
    ago_s = extra.pop("ago_s", 3.2)
    known = {"Timestamp": stamp(ago_s), "State": state, "PortStatus": extra.pop("ports", {})}
    if error := extra.pop("error", ""):
        known["Err"] = error
    return {
        "ID": task_id,
        "CreatedAt": stamp(ago_s),
        "ServiceID": "j877x32im7k8b5vwj28l97tvd",
        "Slot": slot,
        "NodeID": NODE_ID,
        "Spec": {"ContainerSpec": {"Image": "busybox:latest"}},
        "DesiredState": "running",
        "Status": known,
        **extra,
    }


def tasks() -> list[dict[str, Any]]:
    failed = "starting container failed: failed to set up the network: no route"
    port = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}
    return [
        task("nxq9x2o0u92l8zsugt6j3dxg0", 2, "pending", NodeID=""),
        task(
            "u3o3spwv5djda1b2c3d4e5f6g",
            1,
            "failed",
            DesiredState="shutdown",
            error=failed,
            ago_s=9.2,
        ),
        task("oh46iz5ujgo1a1b2c3d4e5f6g", 1, "running", ports={"Ports": [port]}),
    ]

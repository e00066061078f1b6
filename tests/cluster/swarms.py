"""What the cluster tests ask of hosts that are in a swarm, or on their way into one."""

import base64
import json
import re
import ssl
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.compose import Container
from tests.cluster.hosts import Host, Network
from tests.daemon.harness import ApiError, running, wait_for

COMES_BACK_WITHIN_S = 3.0  # a node that was lost without a goodbye; later it counts as down
WORKER_SENTENCE = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)


def swarm_of(host: Host) -> dict:
    """The swarm part of the host's own `info`."""
    return host.client().get("/info")["Swarm"]


def node_id(host: Host) -> str:
    return swarm_of(host)["NodeID"]


def is_active(host: Host) -> bool:
    return swarm_of(host)["LocalNodeState"] == "active"


def token_of(manager: Host, role: str = "Worker") -> str:
    return manager.client().get("/swarm")["JoinTokens"][role]


def row_of(manager: Host, identity: str) -> dict:
    return manager.client().get(f"/nodes/{identity}")


def state_of(manager: Host, identity: str) -> str:
    return row_of(manager, identity)["Status"]["State"]


def wait_state(manager: Host, identity: str, state: str, limit_s: float = 20.0) -> None:
    wait_for(lambda: state_of(manager, identity) == state, what=f"node {state}", limit_s=limit_s)


def states_since(manager: Host | Container, name: str, since_s: float) -> list[tuple[str, float]]:
    """What the node called `name` turned into, and when, by the swarm's events since then."""
    words = ("--since", f"{since_s:.3f}", "--until", "0s", "--filter", f"node={name}")
    said = manager.swarmlet("events", *words, "--filter", "type=node", "--format", "json")
    assert said.returncode == 0, said.stderr
    events = [json.loads(line) for line in said.stdout.splitlines()]
    return [
        (event["Actor"]["Attributes"]["state.new"], event["timeNano"] / 1e9)
        for event in events
        if "state.new" in event["Actor"]["Attributes"]
    ]


def was_given_up(manager: Host | Container, name: str, since_s: float) -> bool:
    """Whether the node that was lost then had its tasks replaced before it was back, which is
    right for one that took its time (a daemon may start slowly here) and for no other."""

    def until_back() -> list[tuple[str, float]]:
        states = states_since(manager, name, since_s)
        return states if states[-1:] and states[-1][0] == "ready" else []

    first = dict(reversed(wait_for(until_back, what=f"{name} is ready again")))
    assert "disconnected" in first
    if "down" not in first:
        return False
    assert first["down"] - since_s >= COMES_BACK_WITHIN_S
    return True


def form_swarm(net: Network, manager: str = "m1") -> None:
    """A swarm of all hosts: one manager, the others its workers."""
    net[manager].start().init()
    for name in net.hosts:
        if name != manager:
            net[name].start().join(net[manager])


def form_managers(net: Network, first: str = "m1") -> None:
    """A swarm of all hosts, each a manager that votes."""
    net[first].start().init()
    for name, host in net.hosts.items():
        if name != first:
            host.start().join(net[first], "Manager")
    wait_for(lambda: are_voters(net), what="every manager reachable", limit_s=30.0)


def managers_seen_by(host: Host) -> dict[str, dict]:
    """`ManagerStatus` by host name, as this manager lists it."""
    rows = host.client().get("/nodes")
    return {
        row["Description"]["Hostname"]: row["ManagerStatus"]
        for row in rows
        if "ManagerStatus" in row
    }


def are_voters(net: Network) -> bool:
    """Whether every host lists all hosts as reachable managers and names the same leader."""
    try:
        seen = [managers_seen_by(host) for host in net.hosts.values()]
    except (ApiError, OSError):
        return False
    leaders = {name for one in seen for name, status in one.items() if status.get("Leader")}
    return len(leaders) == 1 and all(
        set(one) == set(net.hosts)
        and all(status["Reachability"] == "reachable" for status in one.values())
        for one in seen
    )


def leader_of(net: Network, *asked: str) -> str:
    """The leader's host name, waited for, as those asked (all where none is named) say."""

    def found() -> str:
        names = set()
        for name in asked or tuple(net.hosts):
            try:
                seen = managers_seen_by(net[name])
            except (ApiError, OSError):
                return ""
            names |= {one for one, status in seen.items() if status.get("Leader")}
        return names.pop() if len(names) == 1 else ""

    return str(wait_for(found, what="one leader", limit_s=20.0))


def first_write(host: Host, name: str, limit_s: float = 20.0) -> float:
    """Seconds until a write through this host is committed."""
    began_s = time.monotonic()

    def is_written() -> bool:
        try:
            host.client().post("/configs/create", config(name))
        except ApiError as error:
            return error.status == 409
        except OSError:
            return False
        return True

    wait_for(is_written, what=f"a write through {host.name}", limit_s=limit_s)
    return time.monotonic() - began_s


def refusal(host: Host) -> str:
    """Why a write cannot be made now, or ""."""
    try:
        host.client().post("/configs/create", config(f"x-{time.monotonic_ns()}"))
    except ApiError as error:
        return error.message if error.status == 503 else ""
    return ""


def config(name: str, data: bytes = b"x") -> dict:
    return {"Name": name, "Labels": {}, "Data": base64.b64encode(data).decode()}


def configs_of(host: Host) -> dict[str, str]:
    """Ids by name."""
    return {one["Spec"]["Name"]: one["ID"] for one in host.client().get("/configs")}


def join_body(host: Host, token: str, *addresses: str, **more: object) -> dict:
    return {
        "ListenAddr": "0.0.0.0:2377",
        "AdvertiseAddr": host.address,
        "RemoteAddrs": list(addresses),
        "JoinToken": token,
        **more,
    }


def refused(host: Host, token: str, *addresses: str) -> ApiError:
    """How a join fails; the host is in no swarm before and after."""
    client = host.client()
    client.timeout_s = 60.0
    with pytest.raises(ApiError) as found:
        client.post("/swarm/join", join_body(host, token, *addresses))
    assert swarm_of(host)["LocalNodeState"] == "inactive"
    return found.value


def leave(host: Host, manager: Host | None = None) -> None:
    """Out of the swarm; with `manager` its row goes, too."""
    swarm = swarm_of(host)
    if swarm["LocalNodeState"] != "inactive":
        host.client().post("/swarm/leave?force=1")
    if manager is not None and swarm["NodeID"]:
        manager.client().delete(f"/nodes/{swarm['NodeID']}?force=1")


def update_swarm(manager: Host, change: dict[str, dict], **query: str) -> None:
    """Merge `change` into the swarm's spec."""
    swarm = manager.client().get("/swarm")
    for part, fields in change.items():
        swarm["Spec"][part] = {**(swarm["Spec"].get(part) or {}), **fields}
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    url = f"/swarm/update?version={swarm['Version']['Index']}&{asked}"
    manager.client().post(url, swarm["Spec"])


def spread(manager: Host, name: str) -> Counter[str]:
    """How many running tasks of the service each node has."""
    return Counter(task["NodeID"] for task in running(manager.client(), name))


def remove_services(manager: Host) -> None:
    client = manager.client()
    for one in client.get("/services"):
        client.delete(f"/services/{one['ID']}")
    wait_for(lambda: not client.get("/tasks"), what="no task left")


def root_on(host: Host) -> str:
    """The root that the host trusts, PEM."""
    return Path(host.data, "certificates/swarm-root-ca.crt").read_text()


def certificate_text(host: Host) -> str:
    """What openssl says of the host's own certificate."""
    path = f"{host.data}/certificates/swarm-node.crt"
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-text", "-nameopt", "RFC2253", "-in", path],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def serial_of(host: Host) -> str:
    found = re.search(r"Serial Number:\s*([0-9a-f:]+)", certificate_text(host))
    assert found is not None
    return found[1]


def lifetime_h(host: Host) -> float:
    """Of the host's certificate, from its first moment to its last."""
    text = certificate_text(host)
    first, last = (re.search(rf"Not {word} *: (.*)", text) for word in ("Before", "After"))
    assert first is not None
    assert last is not None
    return (ssl.cert_time_to_seconds(last[1]) - ssl.cert_time_to_seconds(first[1])) / 3600


def subject_of(host: Host) -> dict[str, str]:
    """CN, OU and O of the host's certificate."""
    found = re.search(r"Subject: (.*)", certificate_text(host))
    assert found is not None
    return dict(part.split("=", 1) for part in found[1].split(","))

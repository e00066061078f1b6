"""Which tasks of a service really run, by their processes: whatever the managers believe."""

from collections import Counter
from pathlib import Path

from tests.cluster.backends import Five


def marked_service(name: str, mark: str, replicas: int) -> dict:
    """A service whose processes can be told from all others of this machine."""
    return {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "host",
                "Command": ["/bin/sh", "-c", 'echo "says $SLOT"; exec sleep 100000'],
                "Env": [f"MARK={mark}", "SLOT={{.Task.Slot}}"],
                "StopGracePeriod": 1_000_000_000,
            },
            "RestartPolicy": {"Condition": "any", "Delay": 200_000_000},
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


def slot_of(pid: int, mark: str) -> str:
    """The slot of a marked task's own process, "" for any other."""
    try:
        program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    if not program.endswith(b"sleep") or f"MARK={mark}".encode() not in variables:
        return ""
    return next((one[5:].decode() for one in variables if one.startswith(b"SLOT=")), "")


def copies(net: Five, mark: str, *names: str) -> Counter[str]:
    """How many processes each slot has, on these hosts (all where none is named)."""
    found: Counter[str] = Counter()
    for name in names or tuple(net.hosts):
        slots = (slot_of(pid, mark) for pid in net[name].pids())
        found.update(slot for slot in slots if slot)
    return found


def each_once(replicas: int) -> Counter[str]:
    return Counter({str(slot): 1 for slot in range(1, replicas + 1)})

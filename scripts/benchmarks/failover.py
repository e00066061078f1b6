"""Three managers that lose their leader: to the next committed write through another's API.

    scripts/bench failover                    20 kills and 20 cuts, about five minutes; needs root
    scripts/bench failover --rounds 5         a look
    scripts/bench failover --json out.json    the figures for a program

Each manager has a network namespace of its own on a switch in user space (tests/cluster/hosts.py).
`killed`: kill -9 of the daemon that leads. `silent`: its host is cut off, and nothing is closed.
A client asks one of the others from that moment on, again where it gets an error: times are from
there to the first 201, `errors` what it saw before that. The lost one is back before the next
round.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts.benchmarks.api import config, percentile
from tests.cluster.hosts import Host, Network, missing, network
from tests.daemon.harness import ApiError, Client, wait_for

NAMES = ("m1", "m2", "m3")
RETRY_S = 0.005
LIMIT_S = 30.0
SETTLED_S = 1.0  # all is well for so long before the next round


def form(net: Network) -> None:
    """All are managers, and answer."""
    net[NAMES[0]].start().init()
    for name in NAMES[1:]:
        net[name].start().join(net[NAMES[0]], "Manager")
    settle(net)


def group(host: Host) -> dict:
    return host.client().get("/swarmlet/v1/members")


def is_whole(host: Host) -> bool:
    """Whether it knows a leader, and all others answer."""
    members = group(host)["Members"]
    well = [one["IsVoter"] and one["Reachability"] == "reachable" for one in members]
    return len(well) == len(NAMES) and all(well) and any(one["IsLeader"] for one in members)


def settle(net: Network) -> None:
    for name in NAMES:
        wait_for(lambda name=name: is_whole(net[name]), what=f"{name} with all", limit_s=60)
    time.sleep(SETTLED_S)


def leader_of(net: Network) -> str:
    shown = group(net[NAMES[0]])["Members"]
    addr = next(one["Addr"] for one in shown if one["IsLeader"])
    return next(name for name in NAMES if addr == f"{net[name].address}:2377")


def until_written(survivor: Host, tag: str) -> tuple[float, list[str]]:
    """Seconds to the first write that is answered with success, and the errors before it."""
    began, errors = time.perf_counter(), []
    while time.perf_counter() - began < LIMIT_S:
        body = json.loads(config(f"{tag}-{len(errors)}"))
        try:
            Client(survivor.socket, LIMIT_S).post("/configs/create", body)
        except (ApiError, OSError) as error:
            errors.append(str(error)[:120])
            time.sleep(RETRY_S)
        else:
            return time.perf_counter() - began, errors
    raise SystemExit(f"no write within {LIMIT_S:.0f} s: {errors[-1:]}")


def rounds(net: Network, count: int, kind: str, lose: Callable[[Network, str], None]) -> dict:
    times, errors = [], []
    for number in range(count):
        name = leader_of(net)
        survivor = net[NAMES[(NAMES.index(name) + 1 + number % 2) % len(NAMES)]]
        lose(net, name)
        took_s, seen = until_written(survivor, f"{kind}-{number}")
        times.append(took_s)
        errors += seen
        if net[name].process.poll() is not None:
            net[name].start()
        net.heal()
        settle(net)
        print(f"  {kind} {number + 1}: {took_s:.3f} s, {len(seen)} errors", file=sys.stderr)
    return {
        "rounds": count,
        "p50_s": round(percentile(times, 0.5), 3),
        "worst_s": round(max(times), 3),
        "errors": len(errors),
        "first_error": errors[0] if errors else "",
    }


def kill(net: Network, name: str) -> None:
    net[name].kill()


def silence(net: Network, name: str) -> None:
    net.cut(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each kind")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    if reason := missing():
        raise SystemExit(f"This benchmark cannot run here: {reason}.")
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    results: dict[str, object] = {}
    with network(*NAMES) as net:
        form(net)
        results["killed"] = rounds(net, given.rounds, "killed", kill)
        results["silent"] = rounds(net, given.rounds, "silent", silence)
    for title, figures in results.items():
        print(f"{title:12} {json.dumps(figures)}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

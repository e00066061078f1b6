"""Five nodes for a person: scripts/cluster."""

import argparse
import asyncio
import os
import random
import subprocess
import sys

from tests.cluster import backends
from tests.cluster.backends import NAMES, Five
from tests.cluster.chaos import Chaos
from tests.cluster.compose import FILE, ComposeNetwork, compose_command
from tests.cluster.lasting import (
    LastingNetwork,
    Record,
    engine_host,
    up_in_containers,
    up_in_namespaces,
)

DESCRIPTION = """Three managers and two workers on this machine: as containers of swarmlet's own
image (compose), or as daemons in network namespaces."""
FAULTS = {
    "crash": "the power of a node fails: all that runs on it is dead",
    "shutdown": "a node goes down in order",
    "stop": "end a node's daemon in order; its tasks run on",
    "kill": "kill a node's daemon; its tasks run on",
    "freeze": "a node gets no time any more",
    "start": "start a node, or its daemon, again",
    "cut": "nothing goes between a node and all others",
}


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="scripts/cluster", description=DESCRIPTION)
    verbs = found.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", help="start them, and leave them running")
    up.add_argument("--backend", choices=list(backends.OPENED), help="default: what can run here")
    verbs.add_parser("down", help="remove all of it, also what a crash left")
    chaos = verbs.add_parser("chaos", help="hurt nodes at random, then check what must be so")
    chaos.add_argument("--seed", type=int, help="the same faults again; default: a new one")
    chaos.add_argument("--minutes", type=float, default=2.0, help="default: 2")
    chaos.add_argument("--rounds", type=int, default=10**9, help="at most so many faults")
    run = verbs.add_parser("exec", help="run a command on a node")
    run.add_argument("node", choices=NAMES)
    run.add_argument("command", nargs=argparse.REMAINDER)
    for verb, text in FAULTS.items():
        verbs.add_parser(verb, help=text).add_argument("nodes", nargs="+", choices=NAMES)
    verbs.add_parser("heal", help="end every cut and every freeze, and start what does not run")
    return found


def choose() -> str:
    """The back end that can run here. Raises SystemExit where none can."""
    reasons = {name: backends.missing(name) for name in ("compose", "namespaces")}
    for name, reason in reasons.items():
        if not reason:
            return name
    raise SystemExit("\n".join(f"No {name}: {reason}." for name, reason in reasons.items()))


def up(backend: str) -> None:
    if Record.read() is not None:
        raise SystemExit("There is a cluster, or what is left of one: scripts/cluster down")
    backend = backend or choose()
    if reason := backends.missing(backend):
        raise SystemExit(f"No {backend}: {reason}.")
    say(f"Starting three managers and two workers ({backend})")
    if backend == "compose":
        up_in_containers()
    else:
        up_in_namespaces()
    net = opened()
    say(net["manager1"].swarmlet("node", "ls").stdout)
    tell(net)


def tell(net: Five) -> None:
    """How to use it."""
    if isinstance(net, ComposeNetwork):
        if net.docker_host != engine_host():
            say(f"export DOCKER_HOST={net.docker_host}   # the engine that runs the nodes")
        say(f"{' '.join(compose_command())} -f {FILE} exec manager1 swarmlet node ls")
    say("scripts/cluster exec manager1 swarmlet service create --name web host sleep 1000")
    say(f"DOCKER_HOST=unix://{net['manager1'].socket} docker service ls")
    say(
        "scripts/cluster crash worker1    # shutdown, stop, kill, freeze, cut; heal mends all of it"
    )
    say("scripts/cluster chaos --minutes 2")
    say("scripts/cluster down")


def opened() -> Five:
    record = Record.read()
    if record is None:
        raise SystemExit("There is no cluster: scripts/cluster up")
    return record.net()


def down() -> None:
    record = Record.read()
    if record is None:
        say("There is no cluster.")
        return
    record.remove()
    say("The cluster is gone.")


def chaos(seed: int | None, minutes: float, rounds: int) -> None:
    is_ours = Record.read() is None
    if is_ours:
        up("")
    seed = random.SystemRandom().randrange(1, 10**6) if seed is None else seed
    say(f"seed {seed}")
    found = Chaos(opened(), seed, say)
    try:
        wrong = asyncio.run(found.run(rounds=rounds, minutes=minutes))
    except AssertionError as problem:
        wrong = [f"{problem}: scripts/cluster exec manager1 swarmlet node ls"]
    if wrong:
        raise SystemExit("\n".join([*wrong, f"again: scripts/cluster chaos --seed {seed}"]))
    say(f"Every task runs once; all {len(found.acked)} acknowledged writes are there. seed {seed}")
    if is_ours:
        down()


def execute(net: Five, node: str, command: list[str]) -> int:
    """Run it with this program's own standard streams; its exit code."""
    host = net[node]
    if isinstance(net, LastingNetwork):
        environment = [f"SWARMLET_HOST=unix://{host.socket}", f"DOCKER_HOST=unix://{host.socket}"]
        path = f"PATH={os.path.dirname(sys.executable)}:{os.environ.get('PATH', '')}"
        words = host.inside("env", *environment, path, *command)
        return subprocess.run(words, check=False).returncode
    terminal = ["-t"] if sys.stdin.isatty() else []
    words = ["docker", "-H", net.docker_host, "exec", "-i", *terminal, host.container, *command]
    return subprocess.run(words, check=False).returncode


def hurt(net: Five, verb: str, names: list[str]) -> None:
    if verb == "cut":
        net.cut(*names)
        return
    for name in names:
        if verb != "start" and not backends.is_up(net[name]):
            raise SystemExit(f"No daemon answers on {name}: scripts/cluster start {name}")
        getattr(net[name], verb)()


def main(arguments: list[str]) -> int:
    asked = parser().parse_args(arguments)
    match asked.verb:
        case "up":
            up(asked.backend or "")
        case "down":
            down()
        case "chaos":
            chaos(asked.seed, asked.minutes, asked.rounds)
        case "exec":
            return execute(opened(), asked.node, asked.command or ["swarmlet", "node", "ls"])
        case "heal":
            backends.mend(opened())
        case verb:
            hurt(opened(), verb, asked.nodes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

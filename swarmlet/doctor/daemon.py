"""Probes of the daemon, where one runs: its version, its swarm, its runtime."""

import errno
from typing import Final

import msgspec

from swarmlet.core.version import VERSION
from swarmlet.doctor.finding import Judgement, Probe, fail, ok, skipped, warn
from swarmlet.doctor.world import Asked, World, ask

MANAGERS_MAX: Final = 7  # more make every change slower and nothing safer
_OF_MANAGERS: Final = (" managers are more than ", "Running Swarm in a ")
"""In warnings of `info` about the number of managers, which `judge_swarm` counts itself."""
_NO_DAEMON: Final = "No daemon answers, so there is no swarm to ask about."


class Daemon(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    is_wanted: bool  # somebody named it
    problem: str = ""
    number: int = 0
    pid: int = 0
    version: str = ""
    runtime: str = ""
    data_dir: str = ""


def ask_daemon(host: str) -> Asked:
    """What a swarmlet daemon says of itself; status 200 from nothing else."""
    return ask(host, "/swarmlet/v1/daemon")


def look_at_daemon(world: World) -> Daemon:
    answer = ask_daemon(world.socket_host)
    known = Daemon(
        host=world.socket_host,
        is_wanted=world.is_daemon_wanted,
        problem=answer.problem,
        number=answer.number,
        pid=world.daemon_pid,
    )
    if not answer.is_object:
        problem = answer.problem or "what answers there is no swarmlet daemon"
        return msgspec.structs.replace(known, problem=problem)
    return msgspec.structs.replace(
        known,
        version=str(answer.body.get("Version", "")),
        runtime=str(answer.body.get("Runtime", "")),
        data_dir=str(answer.body.get("DataDir", "")),
    )


def judge_daemon(facts: Daemon) -> Judgement:
    if facts.number == errno.EACCES:
        return skipped(f"You may not talk to the daemon at {facts.host}.", "sudo swarmlet doctor")
    if facts.number in (errno.ENOENT, errno.ECONNREFUSED):
        found = f"No daemon answers at {facts.host}."
        return (
            fail(found, "swarmlet daemon") if facts.is_wanted else skipped(found, "swarmlet init")
        )
    if facts.problem:
        return fail(f"{facts.host}: {facts.problem}.", "see the daemon's log")
    process = f"process {facts.pid}, " if facts.pid else ""
    found = (
        f"swarmlet {facts.version} answers at {facts.host}"
        f" ({process}runtime {facts.runtime}, data in {facts.data_dir})"
    )
    if facts.version != VERSION:
        return warn(
            f"{found}; this command is {VERSION}.", "systemctl restart swarmlet: its tasks run on"
        )
    return ok(f"{found}.")


class Member(msgspec.Struct, frozen=True, kw_only=True):
    addr: str
    is_voter: bool
    is_leader: bool
    is_silent: bool = False


class Swarm(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is Docker's LocalNodeState, or "" where no daemon says."""

    state: str = ""
    is_manager: bool = False
    error: str = ""
    members: tuple[Member, ...] = ()
    node_state: str = ""  # this node's, as the managers see it
    node_message: str = ""
    warnings: tuple[str, ...] = ()  # the daemon's own, such as a runtime that is away


def look_at_swarm(world: World) -> Swarm:
    answer = ask(world.socket_host, "/info")
    found = answer.object("Swarm")
    is_manager = bool(found.get("ControlAvailable"))
    state = str(found.get("LocalNodeState", ""))
    swarm = Swarm(
        state=state,
        is_manager=is_manager,
        error=str(found.get("Error") or ""),
        warnings=warnings_of(answer),
    )
    if not is_manager:
        return swarm
    node = ask(world.socket_host, f"/nodes/{found.get('NodeID', '')}?stale=1").object("Status")
    return msgspec.structs.replace(
        swarm,
        members=_members(ask(world.socket_host, "/swarmlet/v1/members")),
        node_state=str(node.get("State", "")),
        node_message=str(node.get("Message", "")),
    )


def warnings_of(answer: Asked) -> tuple[str, ...]:
    """Of `info`, but for those of the number of managers."""
    found = answer.body.get("Warnings") if answer.is_object else None
    return tuple(
        str(warning).removeprefix("WARNING: ").rstrip(".")
        for warning in found or ()
        if not any(words in str(warning) for words in _OF_MANAGERS)
    )


def _members(answer: Asked) -> tuple[Member, ...]:
    found = answer.body.get("Members") if answer.is_object else None
    return tuple(
        Member(
            addr=str(member.get("Addr", "")),
            is_voter=bool(member.get("IsVoter")),
            is_leader=bool(member.get("IsLeader")),
            is_silent=member.get("Reachability") == "unreachable",
        )
        for member in found or ()
    )


def judge_swarm(facts: Swarm) -> Judgement:
    if not facts.state:
        return skipped(_NO_DAEMON)
    if facts.state == "inactive":
        return skipped("This node is in no swarm.", "swarmlet init")
    if facts.state == "locked":
        return fail("This node is locked: it needs the swarm's unlock key.", "swarmlet unlock")
    if facts.error or facts.state != "active":
        why = f": {facts.error.rstrip('.')}" if facts.error else ""
        return fail(f"This node is {facts.state}{why}.", _remedy(facts))
    return _judge_members(facts) if facts.is_manager else ok("This node is a worker of a swarm.")


def _remedy(facts: Swarm) -> str:
    if facts.state == "error":  # removed, expired for too long, or a copy of another
        return "swarmlet info; swarmlet leave --force, then join again"
    if not facts.is_manager or any(member.is_leader for member in facts.members):
        return "see the daemon's log"
    return "swarmlet info; bring the silent managers back, or swarmlet init --force-new-cluster"


def _judge_members(facts: Swarm) -> Judgement:
    leader = next((member.addr for member in facts.members if member.is_leader), "")
    voters = sum(member.is_voter for member in facts.members)
    if not leader:
        return fail(
            f"None of {voters} managers leads: the swarm cannot be changed.",
            "swarmlet node ls; bring the other managers back",
        )
    found = f"{voters} manager{'' if voters == 1 else 's'}, led by {leader}"
    if silent := [member.addr for member in facts.members if member.is_silent]:
        return warn(
            f"{found}: {', '.join(silent)} {'does' if len(silent) == 1 else 'do'} not answer.",
            "swarmlet info; start the daemon there, or swarmlet node demote NODE",
        )
    if voters > 1 and voters % 2 == 0:
        return warn(
            f"{found}: an even number is no safer than one less.", "swarmlet node promote NODE"
        )
    if voters > MANAGERS_MAX:
        return warn(f"{found}: more than {MANAGERS_MAX} are slow.", "swarmlet node demote NODE")
    return ok(f"{found}.")


def judge_node(facts: Swarm) -> Judgement:
    if not facts.state:
        return skipped(_NO_DAEMON)
    if facts.node_state not in ("", "ready"):
        why = f": {facts.node_message.rstrip('.')}" if facts.node_message else ""
        return fail(f"This node is {facts.node_state}{why}.", "swarmlet doctor runtimes")
    if facts.warnings and not facts.error:  # the swarm's own are said already
        warned = "; ".join(facts.warnings)
        return warn(f"The daemon warns: {warned}.", "swarmlet info; swarmlet doctor runtimes")
    if not facts.node_state:
        return skipped("Only a manager knows what the swarm makes of this node.")
    return ok("This node is ready: its runtime can run tasks.")


PROBES: Final = (
    Probe(
        name="daemon",
        matters_for="every other command",
        look=look_at_daemon,
        judge=judge_daemon,
    ),
    Probe(
        name="swarm",
        matters_for="every change",
        look=look_at_swarm,
        judge=judge_swarm,
    ),
    Probe(
        name="node",
        matters_for="tasks on this node",
        look=look_at_swarm,
        judge=judge_node,
    ),
)

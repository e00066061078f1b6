"""Probes of the runtimes: a Docker Engine, runc with conmon, plain processes."""

import errno
import json
import os
from typing import Any, Final

import msgspec

from swarmlet.core.paths import DOCKER_HOST
from swarmlet.doctor.finding import Judgement, Probe, fail, ok, skipped, warn
from swarmlet.doctor.world import World, ask, find, run

API_MIN: Final = (1, 41)  # Docker Engine 20.10, the oldest that is tested
FOLDERS: Final = ("/usr", "/bin", "/lib", "/lib64")  # what /bin/true needs
SPEC_VERSION: Final = "1.0.2"  # of the OCI runtime specification


class Docker(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    is_wanted: bool  # somebody named it
    is_installed: bool = False
    problem: str = ""
    number: int = 0  # the errno of the problem
    is_swarmlet: bool = False
    version: str = ""
    api_version: str = ""
    swarm: str = ""  # LocalNodeState of its own swarm mode


def look_at_docker(world: World) -> Docker:
    host, is_wanted = world.docker_host, world.is_docker_wanted
    if not host.startswith(("unix://", "tcp://", "/")):
        return Docker(host=host, is_wanted=is_wanted, problem="this address is not understood")
    version = ask(host, "/version")
    if not version.is_object:
        problem = version.problem or f"it answers with status {version.status}"
        return Docker(
            host=host,
            is_wanted=is_wanted,
            is_installed=bool(find("dockerd")),
            problem=problem,
            number=version.number,
        )
    swarm = ask(host, "/info").object("Swarm")
    return Docker(
        host=host,
        is_wanted=is_wanted,
        is_swarmlet=ask(host, "/swarmlet/v1/daemon").status == 200,
        version=str(version.body.get("Version", "")),
        api_version=str(version.body.get("ApiVersion", "")),
        swarm=str(swarm.get("LocalNodeState", "")),
    )


def judge_docker(facts: Docker) -> Judgement:
    if facts.problem:
        return _judge_no_docker(facts)
    if facts.is_swarmlet:
        return fail(
            f"What answers at {facts.host} is a swarmlet daemon, no Docker Engine.",
            f"--docker-host {DOCKER_HOST}",
        )
    found = f"Docker Engine {facts.version} (API {facts.api_version}) answers at {facts.host}"
    if _api(facts.api_version) < API_MIN:
        oldest = ".".join(str(part) for part in API_MIN)
        return warn(f"{found}: older than API {oldest}.", "apt-get install docker.io")
    if facts.swarm not in ("", "inactive"):
        return warn(
            f"{found}, and is in a swarm of its own ({facts.swarm}).", "docker swarm leave --force"
        )
    return ok(f"{found}.")


def _judge_no_docker(facts: Docker) -> Judgement:
    found, remedy = (
        f"No Docker Engine answers at {facts.host}: {facts.problem}.",
        "systemctl start docker",
    )
    if facts.number == errno.EACCES:
        found = f"You may not talk to the Docker Engine at {facts.host}."
        remedy = "usermod -aG docker $USER, then log in again"
    elif not facts.is_installed and not facts.is_wanted:
        found = f"There is no Docker Engine here: nothing answers at {facts.host}."
        remedy = "apt-get install docker.io"
    return fail(found, remedy) if facts.is_wanted else warn(found, remedy)


def _api(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        return (0,)


class Oci(msgspec.Struct, frozen=True, kw_only=True):
    is_root: bool
    runc: str  # its version, or ""
    crun: str
    conmon: str
    tried: str = ""  # the program that was to run a container
    problem: str = ""  # of the container


def look_at_oci(world: World) -> Oci:
    versions = {name: _version(name) for name in ("runc", "crun", "conmon")}
    tried = next((name for name in ("runc", "crun") if versions[name]), "")
    problem = _run_container(find(tried), world) if tried and world.is_root else ""
    return Oci(is_root=world.is_root, tried=tried, problem=problem, **versions)


def _version(program: str) -> str:
    """The last word of its first line: `runc version 1.1.5`."""
    path = find(program)
    if not path:
        return ""
    words = run(path, "--version").out.split("\n", 1)[0].split()
    return words[-1] if words else "of unknown version"


def _run_container(program: str, world: World) -> str:
    try:
        return _container(program, f"{world.scratch()}/oci")
    except OSError as error:  # no room for its files
        return f"{error.filename}: {error.strerror}"


def _container(program: str, folder: str) -> str:
    """Run /bin/true of this host in a container: "" where it ended well, else why not."""
    name = f"swarmlet-doctor-{os.getpid()}"
    os.makedirs(f"{folder}/rootfs", 0o700)
    with open(f"{folder}/config.json", "w", encoding="utf-8") as file:
        json.dump(_spec(name), file)
    command = (program, "--root", f"{folder}/state")
    try:
        return run(*command, "run", "--bundle", folder, name).problem
    finally:
        run(*command, "delete", "--force", name)


def _spec(name: str) -> dict[str, Any]:
    binds = [
        {"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}
        for path in FOLDERS
        if os.path.isdir(path)
    ]
    proc = {"destination": "/proc", "type": "proc", "source": "proc"}
    kinds = ("pid", "mount", "ipc", "uts", "network")
    return {
        "ociVersion": SPEC_VERSION,
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "hostname": name,
        "mounts": [proc, *binds],
        "linux": {"namespaces": [{"type": kind} for kind in kinds], "cgroupsPath": f"/{name}"},
    }


def judge_oci(facts: Oci) -> Judgement:
    there = [
        f"{name} {version}"
        for name, version in (("runc", facts.runc), ("crun", facts.crun), ("conmon", facts.conmon))
        if version
    ]
    wanted = [
        name for name, version in (("runc", facts.tried), ("conmon", facts.conmon)) if not version
    ]
    if facts.problem:
        return warn(
            f"{facts.tried} runs no container: {facts.problem}.",
            "swarmlet doctor namespaces cgroups disk",
        )
    if wanted:
        has = f" ({', '.join(there)} is there)" if there else ""
        return warn(
            f"{' and '.join(wanted)} {'is' if len(wanted) == 1 else 'are'} not installed{has}.",
            f"apt-get install {' '.join(wanted)}",
        )
    if not facts.is_root:
        return skipped(f"{', '.join(there)}: only root can run containers with them.")
    return ok(f"{', '.join(there)}; {facts.tried} ran a container.")


class Process(msgspec.Struct, frozen=True, kw_only=True):
    is_root: bool
    isolation_problem: str


def look_at_process(_world: World) -> Process:
    # Imported here: it brings asyncio, which no other probe needs.
    from swarmlet.runtime.process.host import look_at_host

    host = look_at_host()
    return Process(is_root=host.is_root, isolation_problem=host.isolation_problem)


def judge_process(facts: Process) -> Judgement:
    if facts.isolation_problem:
        return warn(
            f"Tasks cannot be isolated ({facts.isolation_problem}), so root's daemon runs none.",
            "an ordinary user's daemon, or swarmlet daemon --allow-root-tasks",
        )
    if facts.is_root:
        return ok("A task got namespaces of its own.")
    return ok("Tasks run as this user, without namespaces.")


PROBES: Final = (
    Probe(
        name="docker",
        matters_for="the docker runtime: services of any image",
        look=look_at_docker,
        judge=judge_docker,
    ),
    Probe(
        name="oci",
        matters_for="the oci runtime: services of any image, without Docker",
        look=look_at_oci,
        judge=judge_oci,
    ),
    Probe(
        name="process",
        matters_for="the process runtime: services of the image `host`",
        look=look_at_process,
        judge=judge_process,
    ),
)

"""`/swarmlet/v1`: what the Docker Engine API has no word for."""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply, reply_empty
from swarmlet.api.query import flag
from swarmlet.api.render.certificate import render_certificate, render_issuance
from swarmlet.api.render.common import rfc3339
from swarmlet.api.render.group import render_group
from swarmlet.core.version import VERSION
from swarmlet.model.task import Task


async def describe_daemon(call: Call) -> web.Response:
    facts, state = call.engine.facts, call.engine.swarm_state()
    certificate = state.certificate
    return reply(
        {
            "Version": VERSION,
            "StartedAt": rfc3339(facts.started_ms),
            "DataDir": facts.data_dir,
            "Runtime": facts.runtime.name,
            "Runtimes": list(facts.runtimes),
            "DockerHost": facts.docker_host,
            "SwarmState": state.state,
            "ListenAddr": state.listen_addr,
            "Certificate": None if certificate is None else render_certificate(certificate),
        }
    )


async def stop_daemon(call: Call) -> web.Response:
    """The daemon ends after this answer; tasks run on. With `?hostStopping=1` the swarm hears that
    they will not, because this host shuts down, and moves them at once."""
    call.engine.stop(is_host_stopping=flag(call.query, "hostStopping"))
    return reply_empty(204)


async def list_members(call: Call) -> web.Response:
    """The Raft group as this manager knows it, at once: also where a majority is lost."""
    control = call.engine.control()
    view = await control.read(stale=True)
    return reply(render_group(control.health(), control.leadership().term, view.index))


def _attempt(task: Task) -> dict[str, object]:
    return {
        "ID": task.id,
        "Attempt": task.attempt,
        "StartAt": rfc3339(task.start_at_ms) if task.start_at_ms else None,
        "Replaces": task.replaces,
    }


async def inspect_node(call: Call) -> web.Response:
    """A node's last certificate, and how far a new one is."""
    control = call.engine.control()
    node = control.find_node(await call.view(control), call.name)
    return reply({"ID": node.id, "Certificate": render_issuance(node.certificate)})


async def inspect_task(call: Call) -> web.Response:
    """Which restart of its slot a task is, when it may start and what it follows."""
    control = call.engine.control()
    return reply(_attempt(control.find_task(await call.view(control), call.name)))


DAEMON_ROUTES: Final = (
    Route("GET", "/swarmlet/v1/daemon", describe_daemon),
    Route("POST", "/swarmlet/v1/daemon/stop", stop_daemon),
)
ROUTES: Final = (
    Route("GET", "/swarmlet/v1/members", list_members),
    Route("GET", "/swarmlet/v1/nodes/{id}", inspect_node),
    Route("GET", "/swarmlet/v1/tasks/{id}", inspect_task),
)

"""`/swarmlet/v1/.../why`: why a service, a node or a task is as it is. Any manager answers."""

from typing import TYPE_CHECKING, Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply
from swarmlet.api.render.certificate import read_certificate
from swarmlet.api.render.node import Managers
from swarmlet.api.render.why import render_node_why, render_service_why, render_task_why
from swarmlet.model.node import Node

if TYPE_CHECKING:
    from swarmlet.reconcile.why.nodes import NodeFacts
    from swarmlet.store.proposer import GroupHealth


async def of_service(call: Call) -> web.Response:
    from swarmlet.reconcile.why.services import explain_service  # workers do without

    control = call.engine.control()
    await call.view(control)
    found = await control.explain(
        lambda view, now_ms: explain_service(view, control.find_service(view, call.name), now_ms)
    )
    return reply(render_service_why(found))


async def of_task(call: Call) -> web.Response:
    from swarmlet.reconcile.why.tasks import explain_task  # workers do without

    control = call.engine.control()
    await call.view(control)
    found = await control.explain(
        lambda view, now_ms: explain_task(view, control.find_task(view, call.name), now_ms)
    )
    return reply(render_task_why(found))


async def of_node(call: Call) -> web.Response:
    from swarmlet.reconcile.why.nodes import explain_node  # workers do without

    control = call.engine.control()
    node = control.find_node(await call.view(control), call.name)
    facts = _facts(node, control.health())
    found = await control.explain(
        lambda view, now_ms: explain_node(view, control.find_node(view, node.id), facts, now_ms)
    )
    return reply(render_node_why(found))


def _facts(node: Node, health: "GroupHealth") -> "NodeFacts":
    from swarmlet.reconcile.why.nodes import NodeFacts  # workers do without

    status = Managers(health).status(node)
    heard = next((one for one in health.members if one.member.node_id == node.id), None)
    return NodeFacts(
        certificate_ends_ms=_certificate_ends_ms(node),
        reachability="" if status is None else status.reachability,
        is_leader=status is not None and status.leader,
        silent_since_ms=0 if heard is None or heard.answers else heard.silent_since_ms,
    )


def _certificate_ends_ms(node: Node) -> int:
    """0 where there is none that can be read."""
    try:
        return read_certificate(node.certificate.certificate, node.certificate.role).ends_ms
    except ValueError:
        return 0


ROUTES: Final = (
    Route("GET", "/swarmlet/v1/services/{id}/why", of_service),
    Route("GET", "/swarmlet/v1/nodes/{id}/why", of_node),
    Route("GET", "/swarmlet/v1/tasks/{id}/why", of_task),
)

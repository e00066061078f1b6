"""`/swarmlet/v1/services/{id}/runs`: what became of a job's runs, and one more of them."""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply
from swarmlet.api.render.job_runs import render_runs
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.job import is_job
from swarmlet.model.view import spec_of


async def look(call: Call) -> web.Response:
    control = call.engine.control()
    view = await call.view(control)
    service = control.find_service(view, call.name)
    spec = spec_of(view, service)
    if not is_job(spec.mode):
        raise InvalidArgumentError(
            f"service {service.name} is no job: it has no runs",
            remedy=f"`swarmlet service ps {service.name}` lists its tasks.",
        )
    from swarmlet.reconcile.job_ends import runs_so_far  # workers do without

    return reply(render_runs(service, spec, runs_so_far(view, service)))


async def begin(call: Call) -> web.Response:
    """Now, whatever the schedule says."""
    control = call.engine.control()
    iteration = await control.run_job(call.name)
    return reply({"Iteration": iteration}, 201)


ROUTES: Final = (
    Route("GET", "/swarmlet/v1/services/{id}/runs", look),
    Route("POST", "/swarmlet/v1/services/{id}/runs", begin),
)

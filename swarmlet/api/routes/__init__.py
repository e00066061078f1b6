"""One file an object: parse the request, ask, print. No policy lives here.

`LOCAL_ROUTES` are about this daemon and its host. The others are about the swarm: each manager
answers reads from its own copy of the swarm's state, and passes what else there is on to the one
that leads.
"""

from dataclasses import replace
from typing import Final

from swarmlet.api.call import Route
from swarmlet.api.routes import (
    configs,
    drain,
    events,
    host_objects,
    job_runs,
    join_tokens,
    networks,
    nodes,
    own,
    rebalance,
    revisions,
    secrets,
    services,
    swarm,
    system,
    task_streams,
    tasks,
    why,
)

LOCAL_ROUTES: Final = tuple(
    replace(route, is_local=True)
    for route in (
        *system.ROUTES,
        *swarm.MEMBERSHIP_ROUTES,
        *own.DAEMON_ROUTES,
        *host_objects.ROUTES,
        *task_streams.ROUTES,
    )
)

ROUTES: Final[tuple[Route, ...]] = (
    *LOCAL_ROUTES,
    *events.ROUTES,
    *swarm.ROUTES,
    *nodes.ROUTES,
    *drain.ROUTES,
    *rebalance.ROUTES,
    *services.ROUTES,
    *job_runs.ROUTES,
    *revisions.ROUTES,
    *tasks.ROUTES,
    *secrets.ROUTES,
    *configs.ROUTES,
    *networks.ROUTES,
    *join_tokens.ROUTES,
    *own.ROUTES,
    *why.ROUTES,
)

"""One file an object: parse the request, ask, print. No policy lives here."""

from typing import Final

from swarmlet.api.call import Route
from swarmlet.api.routes import (
    configs,
    events,
    host_objects,
    networks,
    nodes,
    own,
    secrets,
    services,
    swarm,
    system,
    tasks,
)

ROUTES: Final[tuple[Route, ...]] = (
    *system.ROUTES,
    *events.ROUTES,
    *swarm.ROUTES,
    *nodes.ROUTES,
    *services.ROUTES,
    *tasks.ROUTES,
    *secrets.ROUTES,
    *configs.ROUTES,
    *networks.ROUTES,
    *own.ROUTES,
    *host_objects.ROUTES,
)

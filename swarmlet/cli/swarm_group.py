"""`swarmlet swarm`: docker's names for what is also at the top level."""

from typing import Final

from swarmlet.cli.lazy import LazyGroup, example

swarm: Final = LazyGroup(
    "swarm",
    lazy={
        "init": "swarm:init",
        "join": "swarm:join",
        "join-token": "swarm:join_token",
        "leave": "swarm:leave",
        "update": "swarm:update",
    },
    text="Make a swarm, change its settings, leave it.",
    epilog=example("swarmlet swarm init", "swarmlet swarm update --task-history-limit 10"),
)

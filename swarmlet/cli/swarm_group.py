"""`swarmlet swarm`: docker's names for what is also at the top level."""

from typing import Final

from swarmlet.cli.lazy import LazyGroup, example

swarm: Final = LazyGroup(
    "swarm",
    lazy={
        "init": "swarm:init",
        "join": "join:join",
        "join-token": "join_token:join_token",
        "ca": "ca:ca",
        "leave": "swarm:leave",
        "unlock": "unlock:unlock",
        "unlock-key": "unlock_key:unlock_key",
        "update": "swarm:update",
    },
    text="Make or join a swarm, change its settings, leave it.",
    epilog=example("swarmlet swarm init", "swarmlet swarm update --task-history-limit 10"),
)

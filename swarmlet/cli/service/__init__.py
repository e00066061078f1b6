"""`swarmlet service`: one file a verb. The spec is built here as docker builds it (`spec`), the
daemon judges it; whoever waits for a service to converge does so in `progress`."""

from typing import Final

from swarmlet.cli.lazy import LazyGroup, example

service: Final = LazyGroup(
    "service",
    lazy={
        "create": "service.create:create",
        "ls": "service.listing:ls",
        "ps": "service.listing:ps",
        "inspect": "service.inspecting:show",
        "logs": "service.logs:logs",
        "exec": "service.exec:exec_",
        "port-forward": "service.port_forward:port_forward",
        "scale": "service.scale:scale",
        "update": "service.update:update",
        "rollback": "service.rollback:rollback",
        "history": "service.history:history",
        "diff": "service.history:diff",
        "plan": "service.planning:plan",
        "run": "service.runs:run",
        "runs": "service.runs:runs",
        "rm": "service.removal:rm",
        "why": "why:service",
    },
    text="Run services and look after them.",
    epilog=example(
        "swarmlet service create --name web --replicas 3 host python3 -m http.server",
        "swarmlet service ls",
        "swarmlet service ps web",
    ),
)

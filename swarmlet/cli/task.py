"""`swarmlet task`."""

from typing import Final

from swarmlet.cli.lazy import LazyGroup, example

task: Final = LazyGroup(
    "task",
    lazy={
        "logs": "service.logs:task_logs",
        "exec": "service.exec:task_exec",
        "why": "why:task",
    },
    text="Look at single tasks.",
    epilog=example("swarmlet task why oh46iz5ujgo1"),
)

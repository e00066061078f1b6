"""Logs of tasks, gathered from the nodes that run them (interface; being written)."""

from collections.abc import AsyncIterator, Sequence

from swarmlet.model.task import Task
from swarmlet.wire.messages import LogLine, LogOptions


class LogBroker:
    def read(self, tasks: Sequence[Task], options: LogOptions) -> AsyncIterator[LogLine]:
        raise NotImplementedError

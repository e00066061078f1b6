"""How far the logs of tasks came, so that a reading that broke off goes on without loss and without
a line twice: pure.

Lines are told apart by task and time. A process task's lines that were written at once bear one
time, so those of the newest time are counted too.
"""

from collections.abc import Callable, Iterable
from typing import Final

from swarmlet.core.ids import TaskID
from swarmlet.wire.messages import LOG_MARKS_MAX, LogLine, LogMark, LogOptions

ALL: Final = -1
"""In the place of a count: all lines of that time were there, of which a `tail` took the last."""

OWN: Final = 0
"""The stream of lines that a manager says itself, where a task's are 1 and 2."""


class Skip:
    """Which lines of a stream that begins anew were read before."""

    def __init__(self, marks: Iterable[LogMark]) -> None:
        self._marks = {mark.task_id: (mark.at_ns, mark.count) for mark in marks}

    def passes(self, line: LogLine) -> bool:
        """Whether the line is new; to be asked once of each, in order."""
        mark = self._marks.get(line.task_id)
        if mark is None or line.stream == OWN:
            return True
        at_ns, count = mark
        if line.at_ns != at_ns:
            return line.at_ns > at_ns
        if count > 0:
            self._marks[line.task_id] = (at_ns, count - 1)
        return count == 0


class Progress:
    """The newest time of each task's lines, and how many of that time there were."""

    def __init__(self, options: LogOptions, began_ns: int, marks: Iterable[LogMark] = ()) -> None:
        self.options, self.began_ns = options, began_ns
        self._marks = {mark.task_id: (mark.at_ns, mark.count) for mark in marks}
        self._many = LOG_MARKS_MAX

    def note(self, line: LogLine) -> None:
        if line.stream == OWN:
            return
        known = self._marks.get(line.task_id)
        if known is None:
            is_of_tail = self.options.tail >= 0 and line.at_ns < self.began_ns
            self._marks[line.task_id] = (line.at_ns, ALL if is_of_tail else 1)
        elif line.at_ns > known[0]:
            self._marks[line.task_id] = (line.at_ns, 1)
        elif line.at_ns == known[0] and known[1] != ALL:
            self._marks[line.task_id] = (line.at_ns, known[1] + 1)

    def forget(self, task_id: TaskID) -> None:
        self._marks.pop(task_id, None)

    def forget_gone(self, is_there: Callable[[TaskID], bool]) -> None:
        """Whoever follows a service for weeks keeps no more than the tasks there are. Looks at them
        when they have become twice as many."""
        if len(self._marks) > self._many:
            self._marks = {one: mark for one, mark in self._marks.items() if is_there(one)}
            self._many = max(LOG_MARKS_MAX, 2 * len(self._marks))

    def marks(self, task_ids: Iterable[TaskID] | None = None) -> list[LogMark]:
        """Of these tasks, or of all, the newest last."""
        wanted = self._marks if task_ids is None else task_ids
        found = [LogMark(one, *self._marks[one]) for one in wanted if one in self._marks]
        return sorted(found, key=lambda mark: (mark.at_ns, mark.task_id))

    def since_ns(self, task_ids: Iterable[TaskID]) -> int:
        """From when on the logs of these tasks must be read again. One that had written nothing
        is read from the beginning of the whole, where only its last lines were asked for."""
        options = self.options
        unread_ns = options.since_ns
        if options.tail >= 0:
            unread_ns = max(unread_ns, self.began_ns)
        return min((self._marks.get(one, (unread_ns, 0))[0] for one in task_ids), default=unread_ns)

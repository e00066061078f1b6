"""What should happen next: every policy of the leader as a pure function of a view and a moment.

A decider (`base.Decider`) is told which rows changed, says which keys are worth a look, and answers
a key with changes, reasons and perhaps an alarm; `manager/loop.py` commits them. Nothing here
waits, logs, reads a clock or draws a number.

Who writes what: the decider of a service's mode (`replicated`, `global_services`, `jobs`) and the
`updater` create tasks and write `desired`; `enforcer` ends what its node does not suit any more;
`allocator` moves tasks from NEW to PENDING and writes a service's endpoint; `scheduler` writes
`node_id` (by Assign) and why a task waits; `reaper` removes tasks and spec versions. `dispatch`
only compares; `liveness` and `roll_call` decide, from facts and time, the node statuses that the
dispatcher writes.

After a crash nothing is lost, because nothing is kept: the restart counter, the next attempt and
the reasons are in the tasks' rows. What a decider holds is an index, filled again by `start`.
Every decider converges, then rests, and goes on from any prefix of its own changes.
"""

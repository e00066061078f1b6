"""The agent: every node's half of the swarm. It keeps one session with a manager, runs the tasks it
is assigned through the runtime, and reports what they do.

* `advance` decides, purely, the next step of a task; `worker` owns one shell a task and performs
  the steps; `reporter` tells the newest status of each task until it is acknowledged; `session`
  connects, registers, beats and reads assignments; `state_db` remembers, sealed, what this node was
  asked to run.
* The agent alone writes a task's status from ACCEPTED on. A status is on disk before it is
  reported, so that what the manager was told is never unsaid after a crash.
* After a crash or a restart: tasks that still run are adopted, not restarted; tasks of the runtime
  that the database does not know are removed; tasks that the manager's next complete list lacks are
  removed.
* An end in order says goodbye and leaves tasks running; `leave` stops and removes them all.
"""

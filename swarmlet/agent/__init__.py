"""The agent: every node's half of the swarm. It keeps one session with a manager, runs the tasks it
is assigned through the runtime, and reports what they do.

* `advance` decides, purely, the next step of a task; `worker` owns one shell a task and performs
  the steps; `reporter` tells the newest status of each task until it is acknowledged; `session`
  connects, registers, beats and reads assignments, which `inventory` puts together; `payloads` has
  the secrets and configs, in memory; `state_db` remembers, sealed, what this node was asked to run;
  `logs` and `streams` serve readers and callers for as long as the session lasts.
* Two decide without a manager: `disconnect` ends tasks that may not run on alone, `removal` those
  of a node that its swarm has removed.
* The agent alone writes a task's status from ACCEPTED on. A status is on disk before it is
  reported, so that what the manager was told is never unsaid after a crash.
* After a crash or a restart: tasks that still run are adopted, not restarted, also those that only
  the runtime knows; tasks that the manager's next complete list lacks are removed. What did not run
  yet starts once that list says that it is wanted still.
* An end in order says goodbye and leaves tasks running; `leave` stops and removes them all.
"""

"""The manager: the shells around the store. Policy lives in `reconcile`; here it is run, told and
obeyed.

* `loop` is THE control loop, one for every decider; `leader` owns what runs only while this manager
  leads; `control` holds the API's verbs; `dispatcher` keeps the agents' sessions, `log_broker`
  gathers logs, `stream_broker` opens streams into tasks, `event_feed` tells what happens;
  `ca_server` is the CA that nodes ask, `root_rotation` replaces its root; `members` and `admission`
  change the Raft `group`; `autolock` seals this manager's keys, leader or not; `gatekeeper` says
  who may call what; `port` is what stands behind the node port; `manager` puts them together.
* The dispatcher alone writes a node's description and status, and, for its agent, what is observed
  of a task; `herald` and `stream_notes` write what happened and is in no row; the CA writes
  certificates, makes the rows of nodes that join and counts the uses of their tokens; `members`
  writes a node's role and its place in the group; deciders write what `reconcile` says of them;
  everything else is the API's.
* After a crash or a change of leader nothing is missing: whatever matters is in the store, every
  component begins from there, and agents register anew and tell everything again.
"""

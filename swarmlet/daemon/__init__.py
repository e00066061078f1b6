"""The composition root: one process a host, wired from the rooms below.

`main` reads the options and runs the loop; `settings` says what they are; `data_dir` guards the
data directory (one daemon a directory, one format); `engine` is the life of this node: in no swarm,
in one, or refusing to start on damaged data. A `stay` in a swarm is a `membership` (a manager with
store and log) or a `joined` node, each a `node_life` (agent and certificate) and more; `founding`
and `joining` are the ways in, `port_keeper` keeps a manager's port open. `host` says what
production (`network`, `addresses`) and the simulation have each in their own way; `runtimes`
chooses what runs the tasks; `serve` and `gauges` are the way in and the numbers out.

After a crash nothing here needs repair: a swarm counts once `swarm/state.json` is there, which
comes last and goes first, by renaming `swarm/unsettled.json`. Where that is there instead, an init
or a leave was interrupted, and the next start removes the rest; where neither is, nothing is.
A join that was interrupted goes on from `swarm/joining`.
"""

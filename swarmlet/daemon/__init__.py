"""The composition root: one process a host, wired from the rooms below.

`main` reads the options and runs the loop; `settings` says what they are; `data_dir` guards the
data directory (one daemon a directory, one format); `engine` is the life of this node: in no swarm,
in one, or refusing to start on damaged data. A `stay` in a swarm is a `swarm_node`, or a `locked`
one: a `node_life` (agent and certificate) and, while the node is a manager, a `manager_life`: the
port, a place in the Raft group, and the `membership` (log, store, components). `founding` and
`joining` are the ways in, `moving` is for other addresses and a forced new cluster. `ways` chooses
whom a node asks, `entrance` is what its port shows, `port_keeper` keeps that open. `host` says what
production (`network`, `addresses`) and the simulation have each in their own way; `runtimes`
chooses what runs the tasks; `serve` and `gauges` are the way in and the numbers out.

After a crash nothing here needs repair: a swarm counts once `swarm/state.json` is there, which
comes last and goes first, by renaming `swarm/unsettled.json`. Where that is there instead, an init
or a leave was interrupted, and the next start removes the rest; where neither is, nothing is.
A join that was interrupted goes on from `swarm/joining`, an entry into the Raft group from flags in
`swarm/state.json`.
"""

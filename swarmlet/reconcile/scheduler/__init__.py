"""The scheduler: which node each pending task runs on, or why none will do.

    filters   what a task needs, which nodes have it, and the words for those that have not
    nodeset   nodes as the scheduler counts them; pools of nodes sorted for tasks with equal needs
    ledger    which task holds what on which node, made equal to the rows, never adjusted by hand
    spread    placement preferences: a tree of labels, filled like water
    pipeline  one group of equal tasks and its turn to be placed
    waiting   the tasks that wait, by group, and the reasons they were given
    place     the decider that ties it together

and for people who ask, apart from what is decided:

    room       a ledger that is filled from the rows as far as somebody asks
    preview    where tasks would go if they had to leave their node now
    shortages  all that a node lacks for a task, filter by filter

It writes `node_id` (Assign), the reason a PENDING task waits (`status.err`), and SHUTDOWN for tasks
that are no longer wanted and never had a node. All of it is an index of the store: after a crash
`start` fills it again, failures of the last five minutes included. The order of nodes is total
and ends in the id: same rows, same placement, on every machine.
"""

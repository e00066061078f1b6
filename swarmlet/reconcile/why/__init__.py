"""Why things are as they are: a task that does not run, a service, a node; for people and programs.

Owns nothing and writes nothing: every answer is worked out from the rows when it is asked for, so
each manager gives the same one, also after a crash and without a leader. Where the swarm decides by
a rule, that rule is asked (the scheduler's filters, the restart delays), never a copy of it: an
explanation cannot differ from the decision.

    answers    what is said: reasons with a code, a sentence and a remedy; equal ones in groups
    words      spans of time, amounts, names
    placement  which filters keep a task off the nodes, and the node that lacks least
    tasks      one task
    services   a service: itself, and its tasks that do not run
    nodes      a node: itself, and its tasks that do not run

The work is done in steps: generators that yield now and then, so that whoever asks about 100,000
tasks can let others have a turn. Text is bounded: groups and the tasks named in one are few.
"""

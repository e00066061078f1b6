"""The Docker Engine API over HTTP: parses requests, asks the daemon, prints Docker's JSON.

Owns no state of the cluster: only rendered spec versions, which never change, and open log
streams. It writes no field of any object: the verbs of `manager.control` do, and the `Engine`
where it is about this node's own membership.

A request that changes something is answered after the change is committed, so there is nothing
to promise after a crash: what was answered is in the log; a client without an answer asks again.

`app` is the door (versions, errors), `routes/` has one file an object, `render/` turns rows of
the store into JSON and is pure, `listener` owns the unix socket.
"""

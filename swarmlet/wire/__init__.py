"""What nodes say to each other, and how it travels.

`messages` is the vocabulary (msgpack, tagged arrays; unknown trailing fields are ignored, new
fields have defaults), `channel` the seams that production and the simulation fill: messages are
always encoded and decoded, in process too, so nobody shares an object by accident.

* Both ends: `routes` says who may call what, `node_api` has the bodies, `forward` the headers;
  `credentials` and `tls` are whom one trusts and what one shows; `websocket` carries messages,
  `keepalive` notices who is gone.
* A manager's port: `server` opens it; a connection comes in through `gate`, is a `connection`, and
  each of its requests is received by `reception`, which asks what stands behind (`port`); `bodies`
  reads what comes with one, `upgrade` begins a session.
* The way to one: `client`, and `manager_link` for managers among themselves, make `calls` over
  `pools` of connections; `answers` and `failures` say what came back, `relay` passes a call on;
  `remotes` and `discovery` say which manager to ask. `outgoing` asks an external CA, which is no
  node.
* `stream_socket` is one end of a stream into a task, `raft_socket` one of the connection between
  two members of the Raft group; `until_first` ends what serves one with whoever leaves.

Nothing is stored here, so there is nothing to recover after a crash: who was connected comes again.
"""

"""What nodes say to each other, and how it travels.

`messages` is the vocabulary (msgpack, tagged arrays; unknown trailing fields are ignored, new
fields have defaults), `channel` the seams that production and the simulation fill: messages are
always encoded and decoded, in process too, so nobody shares an object by accident.

`server` is a manager's node port, `client` the way to one; `routes` says who may call what, `tls`
whom both sides trust. Nothing is stored here, so there is nothing to recover after a crash: who was
connected comes again.
"""

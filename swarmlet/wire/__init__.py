"""What nodes say to each other, and how it travels.

`messages` is the vocabulary (msgpack, tagged arrays; unknown trailing fields are ignored, new
fields have defaults), `channel` the seams that production and the simulation fill: messages are
always encoded and decoded, in process too, so nobody shares an object by accident.
"""

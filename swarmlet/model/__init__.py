"""What a cluster is made of: frozen msgspec structs, one file an object.

Specs (`ApiStruct`) carry the Docker API's field names on the wire and every field the API has: what
a user sent is what is stored. Records (`Record`) are the store's rows: they hold runtime state, are
encoded as arrays (fields are only ever appended, with defaults) and are translated at the API's
rim. A pointer field of the API (absent differs from zero) is `T | None = None`; a value that Docker
always prints is declared with `always(...)`; everything else is left out where it is zero.
"""

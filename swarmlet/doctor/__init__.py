"""What this machine can do, found out by trying: `swarmlet doctor`.

A program of the host, not of the swarm: it works without a daemon and with one, writes no field of
any object and keeps nothing. A probe looks (the only part that touches the machine) and then judges
what it saw (pure); `catalogue` lists them all, one file a group.

`run` gives every probe a process of its own with a deadline, so none can hang the command, take it
down or change the namespaces of another. What a probe tries happens in namespaces that end with its
process, or in one scratch folder beside the data, which goes when all have answered. After a crash
that folder, `.swarmlet-doctor-PID`, is all that can be left.

Doors to the machine: `world` (files, programs, sockets, clocks), `scratch` (namespaces and mounts).
"""

"""Runtime `docker`: a task is a container of a Docker Engine that somebody else runs.

* `create` says what container a task becomes, `host_config` the half of it that concerns the host,
  `refusals` what no container can give; the three are pure. What talks to the engine builds on
  them.
* A container is this node's where `swarmlet.engine` on it names this daemon; all others are left
  alone. Its other labels and its name are those Docker's own swarm mode gives, so that tools find
  it.
* `deliveries` puts secrets and configs into containers; `access` leads into those that run, where
  `exec_process` is a program, `hijack` its stream and `killing` its end.
* The engine keeps the containers and the daemon nothing: after a crash of either, the engine's list
  by label tells which tasks there are and how they ended.
"""

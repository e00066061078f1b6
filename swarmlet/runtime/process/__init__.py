"""Runtime `process`: a task is a supervised process of the host's own files (image `host`).

* `runtime` is the adapter, `supervised` one started task as the daemon sees it, `bundle` its
  folder. `plan` turns a spec into what the shim is told, `refusals` says what cannot be done,
  `accounts` as whom, `ports` on which ports, `host` what this host allows; `log_reader` reads what
  was written.
* `health` decides what probes of a task mean, `probes` has them run, `checker` runs one; `mounts`
  plans, `volumes` keeps folders, `mounting` mounts.
* `deliveries` plans where secrets and configs are, `delivery` puts them there; `beside` leads to
  tasks that run: to their ports (`dialing`), and with programs (`exec_plan`, `exec_process`,
  `exec_ends`), each of which `executor` runs.
* `shim` runs alone, one a task, and outlives the daemon: `supervisor`, `sandbox`, `kernel` and
  `log_writer` are its parts and import nothing else of swarmlet, lest its start and memory grow.
* The daemon alone writes `bundle.json` (uid and ports), the shim everything else in a bundle's
  folder. Neither writes anything of a spec: it reaches the shim in memory and is dropped there.
* After a crash of the daemon the folders tell all: the shim holds the bundle's lock while it lives,
  a pid counts only with its start time, and a changed boot id means that everything has ended.
* As root a task has a uid, a pid namespace and a mount namespace of its own, in which the data
  directory is not there; where the host forbids that, no task runs unless root tasks are allowed.
"""

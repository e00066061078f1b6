"""Every limit and default with its unit and its source. A limit that only one file needs lives
there."""

from typing import Final

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
MS_PER_S: Final = 1_000

# Names and payloads: SwarmKit manager/controlapi
SERVICE_NAME_LENGTH_MAX: Final = 63  # characters; a DNS label
SECRET_NAME_LENGTH_MAX: Final = 64  # characters; also configs
SECRET_DATA_SIZE_MAX_B: Final = 512_000  # exclusive; SwarmKit controlapi/secret.go
CONFIG_DATA_SIZE_MAX_B: Final = 1_024_000  # exclusive; SwarmKit controlapi/config.go
CPU_NANO_MIN: Final = 1_000_000  # 0.001 CPU; SwarmKit controlapi/service.go
MEMORY_MIN_B: Final = 4 * 1024 * 1024  # SwarmKit controlapi/service.go
HEALTH_PERIOD_MIN_NS: Final = 1_000_000  # 1 ms; Docker Engine API, HealthConfig
CERT_EXPIRY_MIN_NS: Final = 3_600 * NS_PER_S  # 1 h; SwarmKit ca/certificates.go
RENEWABLE_AFTER_EXPIRY_MS: Final = 365 * 24 * 3_600 * MS_PER_S  # a year; docs/adr/0003
SUBNET_SIZE_MAX: Final = 29  # prefix length; Docker Engine API, swarm init
DATA_PATH_PORT_MIN: Final = 1024  # Docker Engine API, swarm init
DATA_PATH_PORT_MAX: Final = 49_151  # the same

# Store and log
ENTRY_SIZE_MAX_B: Final = 1_572_864  # 1.5 MiB, one transaction; SwarmKit raft.go
ENTRY_CHANGES_MAX: Final = 1_000  # apply finishes such a slice in about 5 ms (measured)
OUTCOMES_MAX: Final = 10_000  # proposals whose outcome is remembered
SNAPSHOT_ENTRIES: Final = 10_000  # entries between snapshots, or the bytes below
SNAPSHOT_LOG_SIZE_B: Final = 32 * 1024 * 1024  # whichever comes first
PROPOSAL_TIMEOUT_S: Final = 20.0  # moby's time for a call to the cluster
LEADERLESS_S: Final = 2.5  # then calls say so; the next leader is elected within 2 s of a loss

# Cluster defaults: moby daemon/cluster, SwarmKit defaults
TASK_HISTORY_RETENTION: Final = 5  # tasks a slot, the live one included; SwarmKit
REVISIONS_KEPT: Final = 10  # spec versions of a service, the current one included
HEARTBEAT_PERIOD_NS: Final = 5 * NS_PER_S
NODE_CERT_EXPIRY_NS: Final = 90 * 24 * 3_600 * NS_PER_S
ELECTION_TICK: Final = 10
HEARTBEAT_TICK: Final = 1
LOG_ENTRIES_FOR_SLOW_FOLLOWERS: Final = 500
SUBNET_SIZE: Final = 24
ADDR_POOL: Final = "10.0.0.0/8"
VXLAN_PORT: Final = 4789
LISTEN_PORT: Final = 2377

# Tasks: SwarmKit manager/orchestrator, unless it says otherwise
RESTART_DELAY_NS: Final = 5 * NS_PER_S
RESTART_DELAY_DOUBLED_MAX_NS: Final = 60 * NS_PER_S  # or the policy's own delay, where longer
RESTART_RESET_AFTER_MS: Final = 10 * 60 * MS_PER_S  # running this long forgives past failures
CRASH_LOOP_RUNS: Final = 2  # that ended in a row: from then on it is said to be a loop
OLD_TASK_WAIT_MAX_MS: Final = 60 * MS_PER_S  # for the predecessor to stop; SwarmKit restart.go
STOP_GRACE_PERIOD_NS: Final = 10 * NS_PER_S
STATUS_BATCH_PERIOD_S: Final = 0.1  # SwarmKit dispatcher.go
STATUS_BATCH_PERIOD_MIN_S: Final = 0.01  # after a few: a small swarm need not wait
STATUS_BATCH_PAUSE_S: Final = 0.001  # for each status just written, between the two
STATUS_BATCH_MAX: Final = 10_000
ASSIGNMENT_BATCH_MAX: Final = 100  # changes a message; SwarmKit dispatcher/assignments.go
FRAME_SIZE_MAX_B: Final = 8 * 1024 * 1024  # a message between nodes
CONDITION_LENGTH_MAX: Final = 500  # characters of what a node says is wrong with its runtime
FAULTY_NODE_FAILURES: Final = 5  # in the window below; SwarmKit scheduler/nodeinfo.go
FAULTY_NODE_WINDOW_MS: Final = 5 * 60 * MS_PER_S
PORT_MAX: Final = 65_535
UINT63_MAX: Final = 2**63 - 1  # counts and sizes are signed 64 bit on the wire

"""What a daemon loads before it is a manager: its memory is every worker's."""

import subprocess
import sys

MANAGERS_ALONE = (
    "swarmlet.manager.control",
    "swarmlet.manager.dispatcher",
    "swarmlet.manager.manager",
    "swarmlet.raft.",
    "swarmlet.reconcile.",
    "pysyncobj",
)


def test_daemon_loads_nothing_that_only_a_manager_needs_before_it_is_one():
    code = "import sys, swarmlet.daemon.main, swarmlet.agent.agent; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "swarmlet.daemon.swarm_node" in loaded
    assert [name for name in loaded if name.startswith(MANAGERS_ALONE)] == []

"""Same input, same output, whatever the order of hashes: the same histories in two processes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

TELL = """
from hashlib import sha256
from tests.reconcile.test_job_histories import Cluster as Jobs
from tests.reconcile.test_scheduler_histories import History
from tests.reconcile.test_together import Cluster
digest = sha256()
for seed in range(8):
    history, cluster, jobs = History(seed), Cluster(seed), Jobs(seed)
    history.check = lambda decision, _: digest.update(repr(decision).encode())
    history.run()
    cluster.run()
    jobs.run()
    for rows in (*cluster.world.tables.values(), *jobs.world.tables.values()):
        digest.update(repr(list(rows.rows.values())).encode())
print(digest.hexdigest())
"""


def digest(hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TELL],
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_decisions_are_the_same_for_any_hash_seed():
    first = digest("1")
    assert len(first.strip()) == 64
    assert digest("2") == digest("3") == first

"""Groups of managers, simulated: seeds with everything that befalls them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.group_runs import GroupFailedError, run_group
from tests.sim.mutations import MUTATIONS, without

ROOT = Path(__file__).parent.parent.parent
SEEDS = int(os.environ.get("SWARMLET_SIM_GROUPS", "200"))
MINUTES = float(os.environ.get("SWARMLET_SIM_MINUTES", "0.7"))
TOOTHLESS_SEEDS = 20  # half of them, or more, fail
TRACE = "from tests.sim.group_runs import run_group; print(run_group(5, 2.0).trace)"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_group_keeps_what_it_acknowledged_and_recovers_by_itself(seed):
    report = run_group(seed, MINUTES)
    assert report.counts["acknowledged"] > 20
    assert report.counts["reads"] > 20


def test_same_seed_is_the_same_run_whatever_the_hash_seed_and_the_memory():
    traces = [
        subprocess.run(
            (sys.executable, "-c", TRACE),
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "LIES": "elsewhere" * int(hash_seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert len(traces[0]) > 10
    assert traces[0] == traces[1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # broken off
@pytest.mark.parametrize("piece", ["hold acks until fsync", "trim"])
def test_without_a_piece_of_the_hardening_some_seed_fails_and_says_how_to_see_it(piece):
    """That the truth has teeth: docs/reliability.md has all pieces, and how many seeds see each."""
    stories = []
    for seed in range(TOOTHLESS_SEEDS):
        try:
            with without(MUTATIONS[piece]):
                run_group(seed, MINUTES)
        except GroupFailedError as failure:
            stories.append(str(failure))
            break
    assert len(stories) == 1
    assert f"scripts/sim --managers --seed {seed} --minutes" in stories[0]

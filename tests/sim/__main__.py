"""`scripts/sim`: run seeds of the simulation and print what they did.

scripts/sim --seed 42                  replay one run
scripts/sim --count 200                seeds 0 to 199
scripts/sim --count 50 --faults heavy  many power cuts a run
scripts/sim --every-write              the power cut at every single disk operation of one run
"""

import argparse
import logging
import sys
import time

from tests.sim.disk import WHERES
from tests.sim.runs import run_cut_at, run_seed


def every_write() -> int:
    """Cut the power before, within and after each operation until the work has no more of them."""
    operation = 0
    while all([run_cut_at(operation, where) for where in WHERES]):
        operation += 1
    return operation


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="the first (or only) seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--faults", choices=["none", "light", "heavy"], default="light")
    parser.add_argument("--every-write", action="store_true")
    options = parser.parse_args()
    logging.getLogger("swarmlet").addHandler(logging.NullHandler())
    began = time.perf_counter()
    if options.every_write:
        count = every_write()
        sys.stdout.write(f"{3 * count} power cuts around {count} disk operations: nothing lost\n")
        return
    for seed in range(options.seed, options.seed + options.count):
        done = run_seed(seed, options.faults)
        sys.stdout.write(
            f"seed {done.seed}: {done.lives} lives, {done.operations} disk operations, "
            f"{done.acknowledged} acknowledged, trace {done.trace}\n"
        )
    sys.stdout.write(f"{options.count} runs in {time.perf_counter() - began:.1f} s\n")


main()

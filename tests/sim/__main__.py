"""`scripts/sim`: run seeds of the simulation and print what they did.

scripts/sim --seed 42                  replay one run
scripts/sim --count 200                seeds 0 to 199
scripts/sim --count 50 --faults heavy  many power cuts a run
scripts/sim --every-write              the power cut at every single disk operation of one run
scripts/sim --year --count 20          years of a swarm of 20 nodes
scripts/sim --cluster --count 200      random histories of a small swarm
scripts/sim --cluster --seed 42 --log  one of them, with all that was done and logged
scripts/sim --managers --count 200     groups of managers, a minute each
scripts/sim --managers --count 1000 --minutes 5 --jobs 2
scripts/sim --swarm --count 20         swarms of 5 managers and 30 agents, a minute of faults each
"""

import argparse
import logging
import sys
import time

from tests.sim.disk import WHERES
from tests.sim.fleet_mutations import MUTATIONS as OF_SWARMS
from tests.sim.fleet_runs import FleetFailedError, FleetReport, fleet_summary, run_fleet
from tests.sim.group_runs import GroupReport, run_group, run_groups, summary
from tests.sim.histories import History
from tests.sim.loop import run_sim
from tests.sim.mutations import MUTATIONS, without
from tests.sim.runs import run_cut_at, run_seed
from tests.sim.told import tell_all, tell_fleet
from tests.sim.year import Year

PIECES = {**MUTATIONS, **OF_SWARMS}


def every_write() -> int:
    """Cut the power before, within and after each operation until the work has no more of them."""
    operation = 0
    while all([run_cut_at(operation, where) for where in WHERES]):
        operation += 1
    return operation


def swarm(of: type[History | Year], seed: int, log: bool) -> None:
    """Run one of a whole swarm; a failure names its seed and the last things done."""
    one = of(seed)
    if log:
        tell_all(one.world)
    try:
        report = run_sim(one.world.clock, one.run())
    except BaseException:
        sys.stdout.write("\n".join((f"seed {seed} failed. At last:", *one.world.told[-12:], "")))
        raise
    sys.stdout.write(f"{report}\n")


def managers(seeds: range, minutes: float, jobs: int, missing: str) -> None:
    """Groups of managers; each failure is told with the way to see it again."""
    done = []
    for one in run_groups(seeds, minutes, jobs, missing):
        sys.stdout.write(f"{one}\n")
        sys.stdout.flush()
        if isinstance(one, GroupReport):
            done.append(one)
    if done:
        sys.stdout.write(f"{summary(done)}\n")
    if len(done) < len(seeds):
        sys.exit(f"{len(seeds) - len(done)} of {len(seeds)} runs failed")


def fleets(seeds: range, minutes: float, missing: str, *, log: bool) -> None:
    """Swarms of managers and agents, in the same manner."""
    done: list[FleetReport] = []
    for seed in seeds:
        try:
            with without(PIECES[missing] if missing else ()):
                done.append(run_fleet(seed, minutes, on_run=tell_fleet if log else None))
            sys.stdout.write(f"{done[-1]}\n")
        except FleetFailedError as failure:
            sys.stdout.write(f"{failure}\n")
        sys.stdout.flush()
    if done:
        sys.stdout.write(f"{fleet_summary(done)}\n")
    if len(done) < len(seeds):
        sys.exit(f"{len(seeds) - len(done)} of {len(seeds)} runs failed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="the first (or only) seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--faults", choices=["none", "light", "heavy"], default="light")
    parser.add_argument("--every-write", action="store_true")
    parser.add_argument("--year", action="store_true", help="of a swarm of 20 nodes")
    parser.add_argument("--cluster", action="store_true", help="histories of a small swarm")
    parser.add_argument("--log", action="store_true", help="what the daemons log, by virtual time")
    parser.add_argument("--managers", action="store_true", help="groups of managers")
    parser.add_argument("--swarm", action="store_true", help="managers and agents, with faults")
    parser.add_argument("--minutes", type=float, default=1.0, help="virtual, of each group")
    parser.add_argument("--jobs", type=int, default=1, help="processes, for groups")
    parser.add_argument("--without", default="", choices=["", *PIECES], help="a piece")
    options = parser.parse_args()
    logging.getLogger("swarmlet").addHandler(logging.NullHandler())
    began = time.perf_counter()
    if options.managers and options.log:
        sys.stdout.write(f"{run_group(options.seed, options.minutes, is_told=True)}\n")
        return
    if options.swarm:
        seeds = range(options.seed, options.seed + options.count)
        fleets(seeds, options.minutes, options.without, log=options.log)
        return
    if options.managers:
        seeds = range(options.seed, options.seed + options.count)
        managers(seeds, options.minutes, options.jobs, options.without)
        return
    if options.every_write:
        count = every_write()
        sys.stdout.write(f"{3 * count} power cuts around {count} disk operations: nothing lost\n")
        return
    for seed in range(options.seed, options.seed + options.count):
        if options.year or options.cluster:
            swarm(Year if options.year else History, seed, options.log)
            continue
        done = run_seed(seed, options.faults)
        sys.stdout.write(
            f"seed {done.seed}: {done.lives} lives, {done.operations} disk operations, "
            f"{done.acknowledged} acknowledged, trace {done.trace}\n"
        )
    sys.stdout.write(f"{options.count} runs in {time.perf_counter() - began:.1f} s\n")


if __name__ == "__main__":  # and not in the processes of `--jobs`
    main()

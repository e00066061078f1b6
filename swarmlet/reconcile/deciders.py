"""The deciders a leader runs, each in a loop of its own."""

from swarmlet.reconcile.allocator.allocate import AllocatorDecider
from swarmlet.reconcile.base import Decider
from swarmlet.reconcile.enforcer import EnforcerDecider
from swarmlet.reconcile.global_services import GlobalDecider
from swarmlet.reconcile.jobs import JobsDecider
from swarmlet.reconcile.reaper import ReaperDecider
from swarmlet.reconcile.rebalance import RebalanceDecider
from swarmlet.reconcile.replicated import ReplicatedDecider
from swarmlet.reconcile.scheduler.place import SchedulerDecider
from swarmlet.reconcile.schedules import SchedulesDecider
from swarmlet.reconcile.updater import UpdaterDecider


def all_deciders() -> tuple[Decider, ...]:
    """Fresh ones, in the order in which a task passes them."""
    return (
        ReplicatedDecider(),
        GlobalDecider(),
        UpdaterDecider(),
        JobsDecider(),
        SchedulesDecider(),
        AllocatorDecider(),
        SchedulerDecider(),
        EnforcerDecider(),
        ReaperDecider(),
        RebalanceDecider(),
    )

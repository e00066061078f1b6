"""What the labels of a service say of its schedule."""

import pytest

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.base import Empty
from swarmlet.model.cron import Cron
from swarmlet.model.schedule import Schedule, check_schedule, is_scheduled, schedule_of
from swarmlet.model.service import (
    ReplicatedJobMode,
    ReplicatedMode,
    ServiceMode,
    ServiceSpec,
)

JOB = ServiceMode(replicated_job=ReplicatedJobMode())
LABEL = "swarmlet.schedule"


def spec(mode=JOB, **labels):
    """`spec(timezone="UTC")` has a schedule, `spec(schedule="")` none."""
    said = {LABEL: labels.pop("schedule", "0 */6 * * *")}
    said |= {f"{LABEL}.{key.replace('_', '-')}": value for key, value in labels.items()}
    return ServiceSpec(name="job", mode=mode, labels=said)


def test_a_schedule_alone_is_in_utc_allows_overlaps_and_has_no_deadline():
    assert schedule_of(spec()) == Schedule(Cron("0 */6 * * *", "UTC"), "allow", None)
    assert is_scheduled(spec())


def test_all_that_can_be_said_is_taken():
    said = spec(timezone="Europe/Berlin", concurrency="forbid", starting_deadline="1m30s")
    assert schedule_of(said) == Schedule(Cron("0 */6 * * *", "Europe/Berlin"), "forbid", 90_000)
    check_schedule(said)


@pytest.mark.parametrize("mode", [JOB, ServiceMode(global_job=Empty())])
def test_both_kinds_of_jobs_may_have_one(mode):
    check_schedule(spec(mode))


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_label_is_no_schedule(text):
    none = spec(schedule=text)
    assert schedule_of(none) is None
    assert not is_scheduled(none)
    check_schedule(none)


@pytest.mark.parametrize(
    ("wrong", "message", "remedy"),
    [
        (spec(ServiceMode(replicated=ReplicatedMode())), "is for jobs", "--mode replicated-job"),
        (spec(ServiceMode(global_=Empty())), "is for jobs", "--mode replicated-job"),
        (spec(schedule="x"), "invalid schedule 'x'", "minute, hour"),
        (spec(timezone="Mars/Base"), "unknown time zone 'Mars/Base'", "Europe/Berlin"),
        (spec(concurrency="queue"), "'queue'", "allow, forbid, replace"),
        (spec(starting_deadline="soon"), "'soon'", "10m"),
        (spec(starting_deadline="9s"), "at least 10s", "10m"),
        (spec(schedule="", timezone="UTC"), "without swarmlet.schedule", "--schedule"),
    ],
)
def test_what_means_nothing_is_refused_with_what_would(wrong, message, remedy):
    with pytest.raises(InvalidArgumentError) as caught:
        check_schedule(wrong)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_two_schedules_with_the_same_fires_have_the_same_key():
    assert schedule_of(spec(concurrency="forbid")).key == schedule_of(spec(timezone="UTC")).key
    assert schedule_of(spec()).key != schedule_of(spec(timezone="Europe/Berlin")).key

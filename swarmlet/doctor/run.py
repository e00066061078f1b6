"""Each probe in a process of its own, some at a time, none beyond its deadline."""

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from swarmlet.core.errors import FailedPreconditionError
from swarmlet.doctor.finding import Finding, Judgement, Probe, ok, unknown
from swarmlet.doctor.scratch import clear, die_with
from swarmlet.doctor.world import World, mono_s, pause

PARALLEL_MAX: Final = 6  # processes at once: most wait, few compute
CLEAR_TIMEOUT_S: Final = 2.0
BURY_TIMEOUT_S: Final = 0.5  # a killed process that the kernel holds (a dead NFS) is left to init
READ_SIZE_B: Final = 65_536
INTERRUPTIONS: Final = (signal.SIGINT, signal.SIGTERM)

Named = tuple[str, Probe[Any]]
"""A probe with the name of its group."""


@dataclass(slots=True, kw_only=True)
class _Child:
    pid: int
    reader: int
    started_s: float
    deadline_s: float
    answer: bytes = b""
    named: Named | None = field(default=None)


def examine(probes: Sequence[Named], world: World) -> Iterator[Finding]:
    """The findings in the order of `probes`, each as soon as all before it are there. Whatever a
    probe does, one comes for it. The scratch folder is gone at the end, also of an interruption."""
    waiting = list(reversed(probes))
    running: dict[int, _Child] = {}
    done: dict[str, Finding] = {}
    told = 0
    try:
        while told < len(probes):
            while waiting and len(running) < PARALLEL_MAX:
                _start_probe(running, waiting.pop(), world)
            for child, judgement in _wait(running):
                finding = _finding(child, judgement)
                done[finding.name] = finding
            while told < len(probes) and (ready := done.get(probes[told][1].name)):
                yield ready
                told += 1
    finally:
        for child in running.values():
            _end(child)
        _clear(world)


def _start_probe(running: dict[int, _Child], named: Named, world: World) -> None:
    probe = named[1]

    def work() -> bytes:
        return msgspec.json.encode(_judge(probe, world))

    _start(running, work, deadline_s=probe.deadline_s, named=named)


def _judge(probe: Probe[Any], world: World) -> Judgement:
    try:
        return probe.run(world)
    except Exception as error:  # noqa: BLE001 - a probe may trip over any machine; this says so
        words = str(error) or "no reason given"
        return unknown(f"The probe itself failed: {type(error).__name__}: {words}.")


def _start(
    running: dict[int, _Child],
    work: Callable[[], bytes],
    *,
    deadline_s: float,
    named: Named | None = None,
) -> None:
    """Fork; the child does its work in a process group of its own, silently, and ends. An
    interruption waits until the child is in `running`, where it is ended with all it started."""
    parent = os.getpid()
    reader, writer = os.pipe()
    pid, before = -1, signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
    try:
        pid = os.fork()
        if pid:
            now_s = mono_s()
            running[reader] = _Child(
                pid=pid, reader=reader, started_s=now_s, deadline_s=now_s + deadline_s, named=named
            )
    finally:
        if pid:  # the child first leaves the parent's handlers behind
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if pid == 0:
        try:
            os.setpgid(0, 0)
            for number in INTERRUPTIONS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            die_with(parent)
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.write(writer, work())
        finally:
            os._exit(0)  # nothing of the parent's is flushed or unwound here
    os.close(writer)


def _wait(running: dict[int, _Child]) -> list[tuple[_Child, Judgement]]:
    """Wait for the next answers or the next deadline; those that ended leave `running`."""
    poll = select.poll()
    for reader in running:
        poll.register(reader, select.POLLIN)
    next_s = min(child.deadline_s for child in running.values())
    for reader, _ in poll.poll(max(0.0, next_s - mono_s()) * 1000):
        child = running[reader]
        if part := os.read(reader, READ_SIZE_B):
            child.answer += part
        else:
            child.deadline_s = 0.0
    ended = [child for child in running.values() if child.deadline_s <= mono_s()]
    for child in ended:
        del running[child.reader]
        _end(child)
    return [(child, _judgement(child)) for child in ended]


def _judgement(child: _Child) -> Judgement:
    if child.deadline_s:
        limit_s = child.deadline_s - child.started_s
        return unknown(f"No answer within {limit_s:.0f} s; the probe was ended.")
    try:
        return msgspec.json.decode(child.answer, type=Judgement)
    except msgspec.DecodeError:
        return unknown("The probe's process ended without an answer.")


def _finding(child: _Child, judgement: Judgement) -> Finding:
    assert child.named is not None
    group, probe = child.named
    return Finding(
        name=probe.name,
        group=group,
        verdict=judgement.verdict,
        found=judgement.found,
        matters_for=probe.matters_for,
        remedy=judgement.remedy,
        took_ms=round((mono_s() - child.started_s) * 1000),
    )


def _end(child: _Child) -> None:
    """Kill what is left of a child and of all it started, and bury it."""
    os.close(child.reader)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # not yet buried, so the number is still its own
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)  # where it did not come to make its group
    until_s = mono_s() + BURY_TIMEOUT_S
    while os.waitpid(child.pid, os.WNOHANG)[0] == 0 and mono_s() < until_s:
        pause(0.001)


def _clear(world: World) -> None:
    """Remove the scratch folder; in a child too, as its file system may never answer. Raises
    FailedPreconditionError where it stays."""

    def work() -> bytes:
        scratch = world.scratch()
        try:
            clear(scratch)
        except OSError as error:
            return msgspec.json.encode(unknown(f"{scratch}: {error.strerror}"))
        return msgspec.json.encode(ok(scratch))

    running: dict[int, _Child] = {}
    _start(running, work, deadline_s=CLEAR_TIMEOUT_S)
    while running:
        for _, judgement in _wait(running):
            if judgement.verdict != "ok":
                raise FailedPreconditionError(
                    f"The scratch folder could not be removed: {judgement.found}",
                    remedy="rm -r .swarmlet-doctor-*, in the data directory or beside it.",
                )

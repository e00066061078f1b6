"""What a probe says: a verdict, what was found, and the command that helps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

import msgspec

from swarmlet.doctor.world import World

Verdict = Literal["ok", "warn", "fail", "unknown", "skipped"]
"""fail: swarmlet cannot work so; warn: something of it will not, or not well; unknown: the probe
got no answer; skipped: it could not be tried, or there is nothing to look at."""

DEADLINE_S: Final = 5.0  # for a probe; the slowest takes half a second where nothing else runs

Facts = TypeVar("Facts")


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """`found` is a sentence; `remedy` the command that helps, or ""."""

    verdict: Verdict
    found: str
    remedy: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement with what it is about; also an object of `--json`, which is a contract."""

    name: str
    group: str
    verdict: Verdict
    found: str
    matters_for: str
    remedy: str
    took_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Generic[Facts]):
    """`look` touches the machine and may raise anything; `judge` is pure."""

    name: str
    matters_for: str
    look: Callable[[World], Facts]
    judge: Callable[[Facts], Judgement]
    deadline_s: float = DEADLINE_S

    def run(self, world: World) -> Judgement:
        return self.judge(self.look(world))


def ok(found: str) -> Judgement:
    return Judgement(verdict="ok", found=found)


def warn(found: str, remedy: str = "") -> Judgement:
    return Judgement(verdict="warn", found=found, remedy=remedy)


def fail(found: str, remedy: str = "") -> Judgement:
    return Judgement(verdict="fail", found=found, remedy=remedy)


def unknown(found: str, remedy: str = "") -> Judgement:
    return Judgement(verdict="unknown", found=found, remedy=remedy)


def skipped(found: str, remedy: str = "") -> Judgement:
    return Judgement(verdict="skipped", found=found, remedy=remedy)

"""Findings as people and programs read them. Pure."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from swarmlet.doctor.finding import Finding, Verdict

_COLOURS: Final[dict[Verdict, str]] = {
    "ok": "32",
    "warn": "33",
    "fail": "1;31",
    "unknown": "36",
    "skipped": "2",
}
"""SGR parameters (ECMA-48): green, yellow, bold red, cyan, faint."""
_COUNTED: Final[tuple[tuple[Verdict, str, str], ...]] = (
    ("ok", "ok", "ok"),
    ("warn", "warning", "warnings"),
    ("fail", "failure", "failures"),
    ("unknown", "unknown", "unknown"),
    ("skipped", "skipped", "skipped"),
)
VERDICT_WIDTH: Final = 8
NAME_WIDTH: Final = 18


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether nothing essential fails."""
    return all(finding.verdict != "fail" for finding in findings)


def lines(findings: Iterable[Finding], *, is_coloured: bool) -> Iterator[str]:
    """The report, a group after the other, as the findings come."""
    group = ""
    for finding in findings:
        if finding.group != group:
            if group:
                yield ""
            group = finding.group
            yield _painted(group, "1") if is_coloured else group
        yield from _finding(finding, is_coloured=is_coloured)


def _finding(finding: Finding, *, is_coloured: bool) -> Iterator[str]:
    mark = finding.verdict.ljust(VERDICT_WIDTH)
    if is_coloured:
        mark = _painted(mark, _COLOURS[finding.verdict])
    yield f"  {mark}{finding.name.ljust(NAME_WIDTH)}{_printable(finding.found)}"
    if finding.verdict != "ok":
        margin = " " * (2 + VERDICT_WIDTH)
        yield f"{margin}  for: {finding.matters_for}"
        if finding.remedy:
            yield f"{margin}  try: {_printable(finding.remedy)}"


def summary(findings: Sequence[Finding]) -> str:
    """`31 ok, 2 warnings, 1 failure.`"""
    parts = []
    for verdict, one, many in _COUNTED:
        count = sum(finding.verdict == verdict for finding in findings)
        if count:
            parts.append(f"{count} {one if count == 1 else many}")
    return f"{', '.join(parts)}." if parts else "Nothing was looked at."


def as_json(findings: Sequence[Finding]) -> str:
    """A list of objects, indented: the fields of Finding."""
    return json.dumps(msgspec.to_builtins(list(findings)), indent=2, ensure_ascii=False)


def _painted(text: str, parameters: str) -> str:
    return f"\x1b[{parameters}m{text}\x1b[0m"


def _printable(text: str) -> str:
    """Names of processes and files may hold anything; a terminal obeys control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)

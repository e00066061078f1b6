"""What the documents promise: tests that are named exist, commands that are shown can be typed."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from swarmlet.cli.main import root

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
NAMED_TEST = re.compile(r"`(tests/[\w/.-]+\.py)::(\w+)`")
COMMAND = re.compile(r"^    (?:sudo )?(swarmlet (?:[^\n\\]|\\\n|\\.)*)", re.M)


def page_name(path):
    return str(path.relative_to(ROOT))


def defined_in(path):
    if not path.exists():
        return set()
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def rows_of(page):
    """The cells of the tables' rows, heads left out."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for at, row in enumerate(rows) if not _is_head(rows, at)]


def _is_head(rows, at):
    is_rule = set("".join(rows[at])) <= {"-"}
    return is_rule or (at + 1 < len(rows) and set("".join(rows[at + 1])) <= {"-"})


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_test_that_a_page_names_exists(page):
    named = NAMED_TEST.findall(page.read_text())
    assert [f"{path}::{name}" for path, name in named if name not in defined_in(ROOT / path)] == []


def test_every_threat_names_what_protects_what_does_not_and_a_test():
    rows = rows_of(ROOT / "docs/threat-model.md")
    assert len(rows) >= 9
    for row in rows:
        assert len(row) == 4, row
        assert all(row), row
        assert NAMED_TEST.search(row[3]), row


def commands_of(page):
    found = COMMAND.findall(page.read_text())
    return [re.split(r"\s{2,}#", line.replace("\\\n", " "))[0].strip() for line in found]


def command_of(words):
    """The command that these words call, and how many of them name it."""
    command, at = root, 0
    while isinstance(command, click.Group) and at < len(words):
        below = command.get_command(click.Context(command), words[at])
        if below is None:
            break
        command, at = below, at + 1
    return command, at


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_command_and_flag_that_a_page_shows_exists(page):
    for line in commands_of(page):
        words = shlex.split(line.split(" | ")[0].split(" > ")[0].split(" && ")[0])[1:]
        command, at = command_of(words)
        if command.name == "daemon" or "OPTIONS" in line or words[0].startswith("-"):
            continue  # the daemon reads its own options; commands.md has a test of its own
        assert not isinstance(command, click.Group), line
        known = {name for p in command.params for name in [*p.opts, *p.secondary_opts]} | {"--help"}
        rest = words[at:]
        if command.name == "create" and words[0] == "service":
            rest = rest[: next((i for i, word in enumerate(rest) if word == "host"), len(rest))]
        flags = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
        assert [flag for flag in flags if flag not in known] == [], line

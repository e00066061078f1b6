"""Every event the daemon can log is explained in the guide, and nothing else is."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/guide/logs.md"
LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
}


def is_log_call(node):
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
        and node.func.attr in {*LEVELS, "log", "critical"}
    )


def fields_of(call):
    """The names in a call's `extra`, where it is written out."""
    extras = [word.value for word in call.keywords if word.arg == "extra"]
    if not extras or not isinstance(extras[0], ast.Dict):
        return set()
    return {key.value for key in extras[0].keys if isinstance(key, ast.Constant)}


def events_logged():
    """Event -> (levels, fields), over all places that log it."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for path in sorted((ROOT / "swarmlet").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not is_log_call(node):
                continue
            is_dynamic = node.func.attr == "log"
            name = node.args[1 if is_dynamic else 0]
            assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: no constant name"
            levels, fields = found.setdefault(name.value, (set(), set()))
            levels |= {"info", "warning"} if is_dynamic else {LEVELS[node.func.attr]}
            fields |= fields_of(node)
    return found


def rows():
    """The page's tables: event -> (levels, fields)."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"`[\w.-]+`", cells[0]):
            levels = set(cells[1].split(", "))
            found[cells[0].strip("`")] = levels, set(re.findall(r"`(\w+)`", cells[2]))
            assert len(cells[3]) > 10, f"{cells[0]} is not explained"
    return found


def test_guide_explains_every_event_and_no_other():
    logged, explained = set(events_logged()), set(rows())
    assert sorted(logged - explained) == [], "add them to docs/guide/logs.md"
    assert sorted(explained - logged) == [], (
        "nothing logs them: remove them from docs/guide/logs.md"
    )


def test_guide_names_the_levels_and_fields_of_every_event():
    explained = rows()
    wrong = {
        name: (sorted(levels), sorted(fields))
        for name, (levels, fields) in events_logged().items()
        if name in explained
        if explained[name][0] != levels or not fields <= explained[name][1]
    }
    assert wrong == {}, "event: its levels and fields in the code"


def test_every_event_is_a_room_and_what_happened():
    assert [n for n in events_logged() if not re.fullmatch(r"[a-z]+\.[a-z_]+", n)] == []

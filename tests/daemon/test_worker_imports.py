"""What a daemon loads before it is a manager, as every worker does, and once it is one."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import swarmlet.daemon.late_parts
from swarmlet.core.errors import FailedPreconditionError
from swarmlet.daemon.late_parts import LateParts

MANAGERS_ALONE = (
    "swarmlet.manager.control",
    "swarmlet.manager.dispatcher",
    "swarmlet.manager.manager",
    "swarmlet.raft.",
    "swarmlet.reconcile.",
    "pysyncobj",
)


def loaded_by(code: str) -> list[str]:
    code = f"import sys, swarmlet.daemon.main, swarmlet.agent.agent; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_daemon_loads_nothing_that_only_a_manager_needs_before_it_is_one():
    loaded = loaded_by("pass")
    assert "swarmlet.daemon.swarm_node" in loaded
    assert [name for name in loaded if name.startswith(MANAGERS_ALONE)] == []


def imported_late(path: Path) -> set[str]:
    """Modules of ours that are imported within functions."""
    found = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("swarmlet."):
                    found.add(str(node.module))
    return found


def test_whatever_is_imported_within_functions_is_loaded_when_a_node_becomes_a_manager():
    root = Path(swarmlet.daemon.late_parts.__file__).parents[1]
    rooms = ("agent", "api", "ca", "daemon", "manager", "raft", "reconcile", "store", "wire")
    files = [path for room in rooms for path in sorted((root / room).rglob("*.py"))]
    late = set[str]().union(*map(imported_late, files))
    assert "swarmlet.reconcile.why.nodes" in late
    runtimes = {name for name in late if name.startswith("swarmlet.runtime.")}  # chosen at a start
    loaded = loaded_by("from swarmlet.daemon.late_parts import load_parts; load_parts()")
    assert late - runtimes <= set(loaded)


def test_parts_of_another_release_are_not_loaded(tmp_path):
    release = tmp_path / "version.py"
    release.write_text("1.0")
    parts, late = LateParts(str(release)), LateParts(str(release))
    parts.load()
    release.write_text("1.1")
    parts.load()  # they are loaded already
    with pytest.raises(FailedPreconditionError, match="has another version") as refused:
        late.load()
    assert "its tasks run on" in refused.value.remedy
    release.unlink()
    with pytest.raises(FailedPreconditionError, match="No such file"):
        late.load()

"""`scripts/setup`, in folders made up for it: nothing is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).parent.parent / "scripts/setup"
PIP = '#!/bin/sh\necho "$@" >>"$0.called"\n'


def checkout(folder: Path) -> Path:
    """A checkout without an environment; its path."""
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(SETUP, folder / "scripts/setup")
    (folder / "pyproject.toml").write_text("")
    return folder


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A checkout with an environment in which nothing has been installed."""
    found = checkout(tmp_path / "first")
    (found / ".venv/bin").mkdir(parents=True)
    for name, text in (("python", "#!/bin/sh\n"), ("pip", PIP)):
        (found / ".venv/bin" / name).write_text(text)
        (found / ".venv/bin" / name).chmod(0o755)
    return found


def set_up(folder: Path) -> str:
    """What it says."""
    script = folder / "scripts/setup"
    done = subprocess.run([script], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def installed(folder: Path) -> list[str]:
    """How pip was called."""
    called = folder / ".venv/bin/pip.called"
    return called.read_text().splitlines() if called.exists() else []


def test_environment_is_filled_once_and_again_when_what_is_needed_has_changed(first: Path):
    assert set_up(first) == ""
    assert set_up(first) == ""
    assert len(installed(first)) == 1
    later = (first / ".venv/.installed").stat().st_mtime + 10
    os.utime(first / "pyproject.toml", (later, later))
    set_up(first)
    assert len(installed(first)) == 2
    assert "-e .[dev]" in installed(first)[1]


def test_environment_of_another_checkout_is_left_as_it_is_and_that_is_said(first: Path):
    second = checkout(first.parent / "second")
    (second / ".venv").symlink_to(first / ".venv")
    said = set_up(second)
    assert f"Used as it is: .venv is the environment of {first}" in said
    assert installed(first) == []


def test_environment_that_is_kept_elsewhere_but_is_nobody_elses_is_filled(first: Path):
    elsewhere = first.parent / "elsewhere"
    (first / ".venv").rename(elsewhere)
    (first / ".venv").symlink_to(elsewhere)
    assert set_up(first) == ""
    assert len(installed(first)) == 1

"""`daemon install`: the unit it writes is one systemd takes, and nobody's file is overwritten."""

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest

from swarmlet.cli import install as install_module
from swarmlet.cli.daemon import daemon as daemon_group
from swarmlet.cli.main import main
from swarmlet.cli.unit import (
    FIRST_LINE,
    UnitOptions,
    daemon_arguments,
    exec_start,
    quoted,
    quoted_path,
    stop_command,
)
from swarmlet.cli.unit import unit_text as text_of
from swarmlet.core.service import EXIT_STOPPED, EXIT_USAGE

USUAL = UnitOptions(
    python="/opt/swarmlet/bin/python",
    arguments=daemon_arguments("/var/lib/swarmlet", "/run/swarmlet/swarmlet.sock"),
    data_dir="/var/lib/swarmlet",
    socket_path="/run/swarmlet/swarmlet.sock",
)
ELSEWHERE = UnitOptions(
    python="/home/a b/$venv/bin/python",
    arguments=daemon_arguments('/srv/100% "odd"', "/srv/s.sock", "--log-level", "info,raft=debug"),
    data_dir='/srv/100% "odd"',
    socket_path="/srv/s.sock",
)


def settings(text):
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def unquoted(line):
    """As systemd.service(5) reads a command line: variables are for arguments alone."""
    program, *arguments = shlex.split(line)
    words = [program, *[word.replace("$$", "$") for word in arguments]]
    return [word.replace("%%", "%") for word in words]


@pytest.mark.parametrize("options", [USUAL, ELSEWHERE, USUAL._replace(is_user=True)])
def test_unit_keeps_tasks_and_always_comes_back(options):
    found = settings(text_of(options))
    assert unquoted(found["ExecStart"]) == exec_start(options)
    assert unquoted(found["ExecStop"].removeprefix("-")) == stop_command(options)
    assert found["KillMode"] == "process"
    assert found["Delegate"] == "yes"
    assert found["Restart"] == "always"
    assert found["StartLimitIntervalSec"] == "0"
    assert found["Type"] == "notify"
    assert found["OOMPolicy"] == "continue"
    assert found["RestartPreventExitStatus"] == f"{EXIT_USAGE} {EXIT_STOPPED}"
    assert found["StandardError"] == "journal"
    assert "WatchdogSec" not in found


def test_unit_sets_nothing_that_tasks_would_suffer_from():
    found = settings(text_of(USUAL))
    harmful = ("Private", "Protect", "Restrict", "NoNew", "Capability", "SystemCall", "ReadOnly")
    assert [key for key in found if key.startswith((*harmful, "Memory", "CPU", "IP"))] == []


def test_unit_lets_systemd_make_the_usual_places_alone():
    usual, elsewhere = settings(text_of(USUAL)), settings(text_of(ELSEWHERE))
    assert usual["RuntimeDirectoryPreserve"] == "yes"
    assert usual["StateDirectory"] == "swarmlet"
    assert "RuntimeDirectory" not in elsewhere
    assert "StateDirectory" not in elsewhere


def test_unit_of_a_user_names_nothing_his_systemd_does_not_have():
    found = settings(text_of(USUAL._replace(is_user=True)))
    for key in ("After", "Wants", "OOMScoreAdjust", "LimitNOFILE", "StateDirectory"):
        assert key not in found
    assert found["WantedBy"] == "default.target"
    assert settings(text_of(USUAL))["WantedBy"] == "multi-user.target"


@pytest.mark.parametrize("word", ["plain", "a b", 'q"q', "back\\slash", "100%", "$HOME", "", "a;b"])
def test_quoted_words_come_back(word):
    assert unquoted(f"/bin/x {quoted(word)}") == ["/bin/x", word]
    assert unquoted(quoted_path(f"/bin/{word}")) == [f"/bin/{word}"]


@pytest.mark.parametrize("options", [USUAL, ELSEWHERE, USUAL._replace(is_user=True)])
def test_systemd_finds_no_fault_with_the_unit(options, tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    odd = tmp_path / "a b" / "$v" / "python"
    odd.parent.mkdir(parents=True)
    odd.symlink_to(sys.executable)
    path = tmp_path / "swarmlet.service"
    path.write_text(text_of(options._replace(python=str(odd))))
    scope = ["--user"] if options.is_user else []
    ran = subprocess.run(
        [analyze, *scope, "verify", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )
    said = [line for line in ran.stderr.splitlines() if "swarmlet" in line]
    assert said == []
    assert ran.returncode == 0, ran.stderr


@pytest.fixture
def unit(tmp_path):
    return tmp_path / "units" / "swarmlet.service"


def installed(unit, *options):
    data = ["--data-dir", str(unit.parent / "data"), "--host", f"unix://{unit.parent}/s.sock"]
    return main(["daemon", "install", "--unit-file", str(unit), *data, *options])


def test_install_writes_once_and_says_where(unit, capsys):
    assert installed(unit) == 0
    assert f"{unit} is written." in capsys.readouterr().out
    assert stat.S_IMODE(unit.stat().st_mode) == 0o644
    before = unit.stat()
    assert installed(unit) == 0
    assert f"{unit} is as it should be." in capsys.readouterr().out
    assert unit.stat().st_mtime_ns == before.st_mtime_ns
    assert list(unit.parent.iterdir()) == [unit]


def test_install_follows_no_link_in_its_drafts_place(unit, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    unit.parent.mkdir()
    (unit.parent / "swarmlet.service.new").symlink_to(victim)
    assert installed(unit) == 0
    assert victim.read_text() == "mine"
    assert list(unit.parent.iterdir()) == [unit]
    assert not unit.is_symlink()


def test_install_starts_this_very_installation(unit):
    assert installed(unit, "--allow-root-tasks", "--log-format", "json") == 0
    command = unquoted(settings(unit.read_text())["ExecStart"])
    assert command[:4] == [sys.executable, "-P", "-m", "swarmlet.daemon"]
    assert command[-3:] == ["--log-format", "json", "--allow-root-tasks"]
    ran = subprocess.run([*command, "--check"], check=False, cwd="/", env={})
    assert ran.returncode == 0


def test_install_shows_the_difference_and_overwrites_only_by_force(unit, capsys):
    unit.parent.mkdir()
    unit.write_text("[Service]\nExecStart=/bin/other\n")
    assert installed(unit) == 1
    seen = capsys.readouterr().err
    assert "-ExecStart=/bin/other" in seen
    assert f"+{FIRST_LINE}" in seen
    assert "Try: --force overwrites it." in seen
    assert "other" in unit.read_text()
    assert installed(unit, "--force") == 0
    assert unit.read_text().startswith(FIRST_LINE)


def test_install_prints_and_writes_nothing(unit, capsys):
    assert installed(unit, "--print") == 0
    assert capsys.readouterr().out.startswith(FIRST_LINE)
    assert not unit.parent.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runtime", "lxc"], ["'lxc' is not one of"]),
        (["--log-level", "raf=debug"], ["is no log level", "raft"]),
        (["--host", "tcp://x"], ["is no address of a swarmlet daemon"]),
    ],
)
def test_install_refuses_what_the_daemon_would_refuse(options, words, unit, capsys):
    assert installed(unit, *options) == 1
    seen = capsys.readouterr().err
    for word in words:
        assert word in seen
    assert not unit.exists()


def test_now_needs_systemds_own_place(unit, capsys):
    assert installed(unit, "--now") == 2
    assert "--now goes neither with" in capsys.readouterr().err


def test_uninstall_removes_its_own_alone_and_leaves_data(unit, capsys):
    uninstall = ["daemon", "uninstall", "--unit-file", str(unit)]
    assert main(uninstall) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert installed(unit) == 0
    data = unit.parent / "data"
    data.mkdir()
    assert main(uninstall) == 0
    assert not unit.exists()
    assert data.exists()
    unit.write_text("[Service]\n")
    assert main(uninstall) == 1
    assert unit.exists()
    assert main([*uninstall, "--force"]) == 0
    assert not unit.exists()


@pytest.mark.parametrize("name", ["install", "uninstall", "stop"])
def test_commands_of_the_daemon_explain_themselves_here_and_in_the_guide(name, capsys):
    command = daemon_group.get_command(click.Context(daemon_group), name)
    assert f"swarmlet daemon {name}" in command.epilog
    assert main(["daemon", name, "--help"]) == 0
    assert f"Usage: swarmlet daemon {name}" in capsys.readouterr().out
    guide = (Path(__file__).parents[2] / "docs/guide/commands.md").read_text()
    section = guide.partition(f"    swarmlet daemon {name}")[2].partition("\n## ")[0]
    assert section
    flags = [flag for p in command.params if isinstance(p, click.Option) for flag in p.opts]
    assert [flag for flag in flags if flag not in section] == []


SYSTEMCTL = """#!/bin/sh
echo "$@" >> {log}
case "$*" in *is-active*) exit 3;; *{fails}*) echo "Unit is bad" >&2; exit 5;; esac
"""


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A place of its own for units, and a systemctl that writes down what it is told."""
    log = tmp_path / "systemctl.log"

    def make(fails="nothing"):
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "systemctl"
        program.write_text(SYSTEMCTL.format(log=log, fails=fails))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setattr(install_module, "ROOT_UNIT_DIR", str(tmp_path / "etc"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "etc"))
        monkeypatch.setattr(install_module, "SYSTEMD_IS_HERE", str(tmp_path))
        return lambda: [line.replace("--user ", "") for line in log.read_text().splitlines()]

    return make


def usual(tmp_path, *command):
    data = ["--data-dir", str(tmp_path / "data"), "--host", f"unix://{tmp_path}/s.sock"]
    return main(["daemon", *command, *(data if command[0] == "install" else [])])


def test_now_enables_and_starts_and_uninstall_undoes_it(systemctl, tmp_path):
    told = systemctl()
    assert usual(tmp_path, "install", "--now") == 0
    starts = ["daemon-reload", "is-active --quiet swarmlet.service", "enable swarmlet.service"]
    assert told() == [*starts, "restart swarmlet.service"]
    assert usual(tmp_path, "install", "--now") == 0
    assert told()[4:] == [*starts, "start swarmlet.service"]
    assert usual(tmp_path, "uninstall") == 0
    assert told()[8:] == ["disable --now swarmlet.service", "daemon-reload"]


def test_install_says_what_to_do_next(systemctl, tmp_path, capsys):
    systemctl()
    assert usual(tmp_path, "install") == 0
    scope = "" if os.getuid() == 0 else " --user"
    next_step = f"systemctl{scope} daemon-reload && systemctl{scope} enable --now swarmlet"
    assert next_step in capsys.readouterr().out


def test_what_systemctl_says_is_said(systemctl, tmp_path, capsys):
    systemctl(fails="enable")
    assert usual(tmp_path, "install", "--now") == 1
    assert "failed: Unit is bad" in capsys.readouterr().err


def test_now_without_systemd_leaves_the_unit_and_says_so(systemctl, tmp_path, monkeypatch, capsys):
    systemctl()
    monkeypatch.setattr(install_module, "SYSTEMD_IS_HERE", str(tmp_path / "nowhere"))
    assert usual(tmp_path, "install", "--now") == 1
    assert "systemd does not run this host" in capsys.readouterr().err


def test_now_refuses_where_a_daemon_that_is_no_service_answers(
    systemctl, tmp_path, daemon, monkeypatch, capsys
):
    systemctl()
    daemon.script = {"GET /_ping": (200, None)}
    command = ["daemon", "install", "--now", "--data-dir", str(tmp_path / "data")]
    assert main([*command, "--host", daemon.socket_path]) == 1
    assert "A daemon that is no service answers" in capsys.readouterr().err


@pytest.fixture
def short_path():
    """A folder whose socket path the kernel takes, however deep pytest's own lie."""
    with tempfile.TemporaryDirectory(prefix="swi-", dir="/tmp") as folder:
        yield Path(folder)


def test_ordinary_user_gets_a_unit_of_his_own(short_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setenv("HOME", str(short_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "SWARMLET_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert main(["daemon", "install"]) == 0
    text = (short_path / ".config/systemd/user/swarmlet.service").read_text()
    assert f"--data-dir {short_path}/.local/share/swarmlet" in text
    assert "WantedBy=default.target" in text
    seen = capsys.readouterr()
    assert "systemctl --user enable --now swarmlet" in seen.out
    assert "loginctl enable-linger" in seen.err


def test_pieces_of_the_node_are_written_into_the_unit(swarmlet):
    pieces = ("--node-generic-resource", "gpu=A", "--node-generic-resource", "gpu=B")
    result = swarmlet("daemon", "install", "--print", *pieces)
    assert result.code == 0
    assert "--node-generic-resource=gpu=A --node-generic-resource=gpu=B" in result.out


def test_pieces_that_mean_nothing_are_refused_before_a_unit_is_written(swarmlet):
    result = swarmlet("daemon", "install", "--print", "--node-generic-resource", "gpu=1,gpu=2")
    assert result.code != 0
    assert "is counted once" in result.err

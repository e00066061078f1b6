"""Every command explains itself, and every mistake gets a sentence and exit code 2."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from swarmlet.cli import main as main_module
from swarmlet.cli.main import main, root
from swarmlet.core.version import VERSION


def commands_below(group: click.Group, path: tuple[str, ...] = ()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name), command
        if isinstance(command, click.Group) and name != "daemon":
            yield from commands_below(command, (*path, name))


ALL = list(commands_below(root))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_command_has_a_sentence_and_an_example_that_parses(path, command):
    assert command.help
    assert "Example:" in (command.epilog or "")
    lines = re.findall(r"swarmlet (.*)", command.epilog)
    assert lines
    assert (
        any(line.startswith((path[0], "swarm " + path[0])) for line in lines) or path[0] == "swarm"
    )


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_command_prints_its_help(path, command, capsys):
    if path[0] == "daemon":
        pytest.skip("the daemon prints its own help")
    assert main([*path, "--help"]) == 0
    assert f"Usage: swarmlet {' '.join(path)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nod"], ["There is no command 'nod'", "Did you mean 'node'", "swarmlet --help"]),
        (["service", "crate"], ["Did you mean 'create'", "swarmlet service --help"]),
        (["node", "ls", "--filer", "x=y"], ["--filer", "--filter", "swarmlet node ls --help"]),
        (["node", "ls", "--filter", "role"], ["Invalid filter 'role'", "KEY=VALUE"]),
        (["node", "inspect"], ["Missing argument"]),
        (["node", "inspect", "--pretty", "-f", "x", "self"], ["exclude each other"]),
        (["node", "update", "--availability", "off", "n"], ["'off' is not one of"]),
        (["service", "scale", "web"], ["must be SERVICE=REPLICAS"]),
        (["service", "scale", "web=-1"], ["must be SERVICE=REPLICAS"]),
        (["service", "scale", "web=²"], ["must be SERVICE=REPLICAS"]),
        (["swarm", "update", "--cert-expiry", "1y"], ["--cert-expiry", "1m30s"]),
        (["secret", "create", "x"], ["file with the secret is missing"]),
        (["service", "logs", "--tail", "x", "web"], ["--tail"]),
        (["unlock", "SWMKEY-1-x"], ["unexpected extra argument"]),
        (["swarm", "update", "--autolock", "maybe"], ["--autolock", "maybe"]),
        (["join-token"], ["Usage: swarmlet join-token"]),
        (["service"], ["Usage: swarmlet service"]),
    ],
)
def test_wrong_usage_says_what_is_meant(arguments, words, swarmlet, daemon):
    daemon.script = {"GET /services/web": (200, {"Spec": {}})}
    result = swarmlet(*arguments)
    assert result.code == 2
    for word in words:
        assert word in result.err
    assert not daemon.posted()


def test_wrong_usage_of_the_daemon_is_said_as_everywhere():
    command = [sys.executable, "-m", "swarmlet.daemon", "--nope"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    text = "Error: No such option '--nope'.\n  Try: `swarmlet daemon --help`\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", text)


def test_guide_names_every_command_and_flag():
    text = (Path(__file__).parents[2] / "docs/guide/commands.md").read_text()
    sections = dict(re.findall(r"^## (swarmlet [a-z -]+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    for path, command in ALL:
        if isinstance(command, click.Group) or (path[0] == "swarm" and path[1] != "update"):
            continue
        section = sections[f"swarmlet {' '.join(path)}"]
        flags = [name for p in command.params if isinstance(p, click.Option) for name in p.opts]
        assert [name for name in flags if name not in section] == []


def test_fault_of_the_command_itself_is_no_stack_trace(monkeypatch, capsys):
    def broken(**_arguments: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr(main_module.root, "main", broken)
    assert main([]) == 1
    seen = capsys.readouterr().err
    assert "swarmlet itself is at fault: RuntimeError: surprise" in seen
    assert "Traceback" not in seen
    monkeypatch.setenv("SWARMLET_DEBUG", "1")
    with pytest.raises(RuntimeError):
        main([])


def test_interrupt_has_its_own_exit_code(monkeypatch):
    def interrupted(**_arguments: object) -> None:
        raise click.Abort

    monkeypatch.setattr(main_module.root, "main", interrupted)
    assert main([]) == 130


def test_completion_prints_a_script_and_completes_live_names(daemon, monkeypatch, capsys):
    from click.shell_completion import get_completion_class

    assert main(["completion", "zsh"]) == 0
    assert "_SWARMLET_COMPLETE=zsh_complete" in capsys.readouterr().out
    daemon.script = {"GET /services": (200, [{"Spec": {"Name": "web"}}, {"Spec": {"Name": "api"}}])}
    complete = get_completion_class("bash")(root, {}, "swarmlet", "_SWARMLET_COMPLETE")
    host = ["--host", daemon.socket_path]
    found = complete.get_completions([*host, "service", "rm"], "w")
    assert [item.value for item in found] == ["web"]
    nobody = complete.get_completions(["--host", "/nowhere.sock", "service", "rm"], "w")
    assert nobody == []


def test_version_flag_says_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"swarmlet {VERSION}\n"

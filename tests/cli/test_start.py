"""A listing answers at once: what it may import, and how long it may take."""

import subprocess
import sys
import time

import pytest

from tests.cli import recorded

BANNED = [
    "aiohttp",
    "asyncio",
    "cryptography",
    "dataclasses",
    "decimal",
    "email",
    "http",
    "http.client",
    "importlib.metadata",
    "logging",
    "msgspec",
    "pathlib",
    "pysyncobj",
    "ssl",
    "subprocess",
    "swarmlet.api",
    "swarmlet.daemon",
    "swarmlet.env",
    "swarmlet.model",
    "swarmlet.wire",
    "tempfile",
    "typing_extensions",
    "urllib.parse",
    "urllib.request",
    "uvloop",
    "yaml",
]
PROGRAM = (
    "import sys; from swarmlet.cli.main import main; before = set({before!r}); "
    "code = main(sys.argv[1:]); "
    "print(*sorted(set(sys.modules) - before), file=sys.stderr); sys.exit(code)"
)
WALL_MAX_S = 0.25  # 0.05 where nothing else runs; a busy machine is not a failure


def modules_of_a_bare_click() -> list[str]:
    program = "import sys, click, json, socket; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def test_node_ls_imports_click_json_socket_and_no_room_of_the_cluster(daemon):
    daemon.script = {"GET /nodes": (200, [recorded.NODE]), "GET /info": (200, recorded.INFO)}
    program = PROGRAM.format(before=modules_of_a_bare_click())
    command = [sys.executable, "-c", program, "--host", daemon.socket_path, "node", "ls"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == recorded.NODE_LS
    loaded = run.stderr.split()
    assert "swarmlet.cli.node" in loaded
    assert [name for name in BANNED if name in loaded] == []


# What costs a moment each, and has no place in a client of a unix socket.
HEAVY = [
    "aiohttp",
    "asyncio",
    "cryptography",
    "http.client",
    "pysyncobj",
    "ssl",
    "swarmlet.api",
    "swarmlet.ca",
    "swarmlet.daemon",
    "swarmlet.env",
    "swarmlet.wire",
    "uvloop",
    "zeroconf",
]


@pytest.mark.parametrize(
    "words",
    [
        ["info"],
        ["node", "inspect", "--pretty", "self"],
        ["node", "rm", "w1"],
        ["join", recorded.TOKEN, "m1"],
        ["join-token", "worker"],
        ["join-token", "create", "--label", "zone=a", "--expires", "24h"],
        ["join-token", "ls"],
        ["ca"],
        ["ca", "--rotate"],
        ["swarm", "update", "--external-ca", "protocol=cfssl,url=https://ca/sign"],
    ],
    ids=" ".join,
)
def test_commands_of_nodes_and_their_certificates_import_nothing_heavy(words, swarm):
    tokens = "/swarmlet/v1/join-tokens"
    made = {"ID": "1", "Token": recorded.TOKEN}
    swarm.script |= {
        "POST /swarm/join": (200, None),
        "DELETE /nodes/w1": (200, None),
        f"GET {tokens}": (200, []),
        f"POST {tokens}": (201, made),
    }
    program = PROGRAM.format(before=modules_of_a_bare_click())
    command = [sys.executable, "-c", program, "--host", swarm.socket_path, *words]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = run.stderr.splitlines()[-1].split()
    assert "swarmlet.cli.client" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_node_ls_answers_at_once(daemon):
    daemon.script = {"GET /nodes": (200, [recorded.NODE]), "GET /info": (200, recorded.INFO)}
    command = [sys.executable, "-m", "swarmlet", "--host", daemon.socket_path, "node", "ls"]
    best_s = 10.0
    for _ in range(5):
        start_s = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        best_s = min(best_s, time.perf_counter() - start_s)
    assert best_s < WALL_MAX_S


def test_python_m_swarmlet_is_the_command():
    command = [sys.executable, "-m", "swarmlet", "version", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("Usage: swarmlet version")


def test_daemon_command_hands_its_options_to_the_daemon():
    command = [sys.executable, "-m", "swarmlet", "--host", "/x.sock", "daemon"]
    run = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("Usage: swarmlet daemon")
    assert "--data-dir" in run.stdout
    run = subprocess.run([*command, "--data-dri", "x"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "--data-dir" in run.stderr

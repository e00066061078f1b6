"""A listing answers at once: what it may import, and how long it may take."""

import subprocess
import sys
import time

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

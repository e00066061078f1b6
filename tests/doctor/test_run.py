"""Each probe comes to an end, whatever it does; in a process of its own, as probes are forked."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from swarmlet.doctor import scratch

WORLD = """
import ctypes, os, signal, sys, time
from swarmlet.doctor.finding import Judgement, Probe, ok
from swarmlet.doctor.report import as_json
from swarmlet.doctor.run import examine
from swarmlet.doctor.world import World

world = World(data_dir=sys.argv[1], pid=os.getpid(), socket_host="", docker_host="")

def probe(name, look, deadline_s=5.0):
    return ("host", Probe(name=name, matters_for="it", look=look, judge=ok, deadline_s=deadline_s))

def told(*probes):
    print(as_json(list(examine(probes, world))))
"""


def told(body: str, folder: Path) -> list[dict[str, object]]:
    command = [sys.executable, "-c", WORLD + body, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert ended.stderr == ""
    return json.loads(ended.stdout)


def test_findings_come_in_order_whichever_probe_is_first(tmp_path):
    found = told(
        "told(*(probe(str(n), lambda w, n=n: time.sleep((9 - n) / 50) or str(n))"
        " for n in range(10)))",
        tmp_path,
    )
    assert [finding["found"] for finding in found] == [str(n) for n in range(10)]


def test_probe_that_fails_dies_or_says_nothing_is_unknown(tmp_path):
    body = """
def fail(_world): raise RuntimeError("no such luck")
def die(_world): os.kill(os.getpid(), signal.SIGSEGV)
def leave(_world): sys.exit(3)
def well(_world): return "Well."
told(probe("fail", fail), probe("die", die), probe("leave", leave), probe("well", well))
"""
    fail, die, leave, well = told(body, tmp_path)
    assert fail["found"] == "The probe itself failed: RuntimeError: no such luck."
    assert die["found"] == leave["found"] == "The probe's process ended without an answer."
    assert {fail["verdict"], die["verdict"], leave["verdict"]} == {"unknown"}
    assert (well["verdict"], well["found"]) == ("ok", "Well.")


def test_probe_beyond_its_deadline_is_ended_with_what_it_started(tmp_path):
    body = """
from swarmlet.doctor.world import run
def hang(_world):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run("/bin/sleep", "4321", timeout_s=60)
told(probe("hang", hang, deadline_s=0.5), probe("well", lambda w: "Well."))
"""
    begin_s = time.monotonic()
    hang, well = told(body, tmp_path)
    assert time.monotonic() - begin_s < 10
    assert hang["verdict"] == "unknown"
    assert "No answer within" in str(hang["found"])
    assert well["verdict"] == "ok"
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "/bin/sleep 4321" not in running.stdout


def test_scratch_folder_is_gone_at_the_end_also_of_a_probe_that_hangs(tmp_path):
    body = """
def leave(world):
    os.makedirs(world.scratch() + "/deep/er")
    os.chmod(world.scratch() + "/deep/er", 0)
    open(world.scratch() + "/file", "w").close()
    time.sleep(60)
told(probe("leave", leave, deadline_s=0.5))
"""
    assert told(body, tmp_path / "not/there")[0]["verdict"] == "unknown"
    assert list(tmp_path.iterdir()) == []


def test_interrupted_run_leaves_neither_process_nor_folder(tmp_path):
    body = """
from swarmlet.doctor.world import run
def hang(world):
    os.makedirs(world.scratch())
    run("/bin/sleep", "5432", timeout_s=60)
told(probe("hang", hang, deadline_s=30))
"""
    command = [sys.executable, "-c", WORLD + body, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until_s = time.monotonic() + 10
    while not list(tmp_path.iterdir()) and time.monotonic() < until_s:
        time.sleep(0.01)
    process.send_signal(2)
    assert process.wait(10) != 0
    assert list(tmp_path.iterdir()) == []
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "/bin/sleep 5432" not in running.stdout


def test_clear_removes_a_tree_with_folders_nobody_may_read(tmp_path):
    tree = tmp_path / "tree"
    (tree / "closed/in").mkdir(parents=True)
    (tree / "closed/in/file").write_text("x")
    (tree / "closed").chmod(0)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (tree / "link").symlink_to(outside)
    os.mkfifo(tree / "fifo")
    scratch.clear(str(tree))
    scratch.clear(str(tree))  # missing is success
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").exists()

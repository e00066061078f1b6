"""`unlock`, `unlock-key`, `init --autolock` and `swarm update --autolock`: docker's words."""

import copy
import io
import os
import pty
import subprocess
import sys

import pytest

from tests.cli import recorded

KEY = "SWMKEY-1-M1RYIeu46RoiSQzPQLSkDIc+0gqYGrk9rJbCVTsC+7M"
KEEP = f"""\
To unlock a swarm manager after it restarts, run the `swarmlet unlock`
command and provide the following key:

    {KEY}

Remember to store this key in a password manager, since without it you
will not be able to restart the manager.
"""


def in_state(daemon, state):
    info = copy.deepcopy(recorded.INFO)
    info["Swarm"]["LocalNodeState"] = state
    daemon.script |= {"GET /info": (200, info), "POST /swarm/unlock": (200, None)}


@pytest.fixture
def locking(swarm):
    """The daemon of a swarm that locks its managers."""
    known = copy.deepcopy(swarm.script["GET /swarm"][1])
    known["Spec"]["EncryptionConfig"] = {"AutoLockManagers": True}
    swarm.script |= {
        "GET /swarm": (200, known),
        "GET /swarm/unlockkey": (200, {"UnlockKey": KEY}),
    }
    return swarm


@pytest.mark.parametrize("command", [["unlock"], ["swarm", "unlock"]])
def test_unlock_reads_the_key_from_its_input(command, swarmlet, daemon, monkeypatch):
    in_state(daemon, "locked")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{KEY}\n"))
    result = swarmlet(*command)
    assert (result.code, result.out, result.err) == (0, "Swarm unlocked.\n", "")
    assert daemon.posted()[0].body == {"UnlockKey": KEY}


def test_unlock_asks_on_a_terminal_and_shows_nothing_of_the_key(daemon):
    in_state(daemon, "locked")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "swarmlet", "--host", daemon.socket_path, "unlock"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    seen = b""
    while b"Enter unlock key" not in seen:
        seen += os.read(master, 1024)
    os.write(master, f"{KEY}\n".encode())
    assert process.wait(30) == 0
    while b"unlocked" not in seen:
        seen += os.read(master, 1024)
    os.close(master)
    assert KEY.encode() not in seen
    assert daemon.posted()[0].body == {"UnlockKey": KEY}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("inactive", "This node is not part of a swarm"),
        ("active", "swarm is not locked"),
        ("pending", "swarm is not locked"),
    ],
)
def test_unlock_asks_for_no_key_where_nothing_is_locked(state, words, swarmlet, daemon):
    in_state(daemon, state)
    result = swarmlet("unlock")
    assert result.code == 1
    assert words in result.err
    assert not daemon.posted()


def test_unlock_without_a_key_and_with_a_wrong_one_say_so(swarmlet, daemon, monkeypatch):
    in_state(daemon, "locked")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    result = swarmlet("unlock")
    assert (result.code, "no unlock key on the standard input" in result.err) == (1, True)
    assert not daemon.posted()
    message = "swarm could not be unlocked: invalid key provided"
    daemon.script["POST /swarm/unlock"] = (401, {"message": message, "remedy": "another one"})
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{KEY}\n"))
    result = swarmlet("unlock")
    assert (result.code, result.err) == (1, f"Error: {message}\n  Try: another one\n")


def test_unlock_key_prints_dockers_text_or_the_key_alone(swarmlet, locking):
    assert swarmlet("unlock-key").out == KEEP
    assert swarmlet("swarm", "unlock-key", "-q").out == f"{KEY}\n"
    assert not locking.posted()


def test_unlock_key_is_rotated_in_the_version_that_was_read(swarmlet, locking):
    result = swarmlet("unlock-key", "--rotate")
    assert result.out == f"Successfully rotated manager unlock key.\n\n{KEEP}"
    (posted,) = locking.posted()
    assert posted.query["version"] == "11"
    assert posted.query["rotateManagerUnlockKey"] == "true"
    assert posted.body["EncryptionConfig"] == {"AutoLockManagers": True}
    assert swarmlet("unlock-key", "--rotate", "-q").out == f"{KEY}\n"


def test_unlock_key_of_a_swarm_that_does_not_lock_is_none(swarmlet, swarm):
    swarm.script["GET /swarm/unlockkey"] = (200, {"UnlockKey": ""})
    asked = swarmlet("unlock-key")
    assert (asked.code, "no unlock key is set" in asked.err) == (1, True)
    rotated = swarmlet("unlock-key", "--rotate")
    assert (rotated.code, "autolock is not turned on" in rotated.err) == (1, True)
    assert not swarm.posted()


def test_init_with_autolock_prints_the_key_last(swarmlet, locking):
    result = swarmlet("init", "--autolock", "--advertise-addr", "127.0.0.1")
    assert result.code == 0
    assert result.out.endswith(KEEP)
    body = locking.posted()[0].body
    assert body["AutoLockManagers"] is True
    assert body["Spec"]["EncryptionConfig"] == {"AutoLockManagers": True}


def test_update_shows_the_key_when_it_turns_autolock_on_alone(swarmlet, swarm, locking):
    known = copy.deepcopy(swarm.script["GET /swarm"][1])
    assert swarmlet("swarm", "update", "--autolock=true").out == "Swarm updated.\n"
    known["Spec"]["EncryptionConfig"] = {"AutoLockManagers": False}
    swarm.script["GET /swarm"] = (200, known)
    assert swarmlet("swarm", "update", "--autolock=true").out == f"Swarm updated.\n{KEEP}"
    assert swarmlet("swarm", "update", "--autolock=false").out == "Swarm updated.\n"
    assert swarmlet("swarm", "update", "--cert-expiry", "48h").out == "Swarm updated.\n"
    sent = [posted.body["EncryptionConfig"]["AutoLockManagers"] for posted in swarm.posted()]
    assert sent == [True, True, False, False]


def test_info_of_a_locked_node_says_how_to_unlock_it(swarmlet, daemon):
    in_state(daemon, "locked")
    said = 'Please use "docker swarm unlock" to unlock it.'
    daemon.script["GET /info"][1]["Swarm"] |= {"Error": said, "ControlAvailable": False}
    lines = swarmlet("info").out.splitlines()
    assert lines[:2] == ["Swarm: locked", ' Error: Please use "swarmlet unlock" to unlock it.']


@pytest.mark.parametrize("words", [["unlock-key", "--rotate"], ["ca", "--rotate"]])
def test_key_and_root_are_not_changed_without_a_majority(words, swarmlet, locking):
    lost = {"message": "1 of 3 managers answers", "code": "quorum-lost"}
    locking.script["GET /swarm"] = (503, lost)
    result = swarmlet(*words)
    assert (result.code, result.err) == (1, "Error: 1 of 3 managers answers\n")
    assert [one.query.get("stale") for one in locking.requests] == [None]


def test_locked_node_says_how_to_unlock_it(swarmlet, daemon):
    message = (
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use "
        '"docker swarm unlock" to unlock it.'
    )
    daemon.script["GET /nodes"] = (503, {"message": message, "remedy": "`swarmlet unlock` ..."})
    result = swarmlet("node", "ls")
    assert result.code == 1
    assert 'use "swarmlet unlock"' in result.err
    assert "Try: `swarmlet unlock`" in result.err

"""Locking, unlocking and rotating the lock of a node's files, and the power going meanwhile."""

from random import Random

import pytest
from msgspec.structs import replace

from swarmlet.ca.key_file import KEY_FILE, PENDING_FILE, KekHolder, new_node_keys
from swarmlet.ca.keys import new_key
from swarmlet.ca.node_files import LockChange, NodeFiles
from swarmlet.ca.unlock_key import UNLOCKED, Kek, WrongKeyError
from swarmlet.core.errors import DamagedError, LockedError, SwarmError
from tests.agent.virtual_time import START_MS
from tests.ca.swarm import Swarm
from tests.sim.disk import WHERES, SimCrash, SimDisk

FOLDER = "/data/certificates"
FIRST, SECOND = Kek(key=b"1" * 32, version=10), Kek(key=b"2" * 32, version=20)
OPEN = Kek(version=30)


class Node:
    """A manager's files, open, and what its next certificate may be."""

    def __init__(self, role="manager", kek=UNLOCKED):
        self.swarm, self.disk = Swarm(lambda: START_MS), SimDisk()
        self.files = NodeFiles(self.disk, FOLDER)
        entropy = self.swarm.entropy
        key = new_key(entropy)
        self.keys = new_node_keys(key, entropy(32), entropy(32))
        self.chain = self.swarm.signed(key.public_key(), "node1", role)
        self.files.write(self.swarm.root.cert_pem, self.chain, self.keys, kek)

    def request(self, role="manager"):
        """A renewal: its key is on the disk, its certificate on the way."""
        key = new_key(self.swarm.entropy)
        pending = new_node_keys(key, self.keys.raft_dek, self.keys.node_dek)
        self.files.write_pending(pending)
        self.next_chain = self.swarm.signed(key.public_key(), "node1", role)
        return pending

    def restarted(self, unlock_key=b""):
        files = NodeFiles(self.disk, FOLDER)
        if unlock_key:
            files.unlock(unlock_key)
        return files

    def readable(self):
        keys = self.keys
        found = [self.disk.plaintext_contains(one) for one in (b"PRIVATE KEY", b"raft-dek")]
        found += [self.disk.plaintext_contains(one) for one in (keys.raft_dek, keys.node_dek)]
        return sorted({name for names in found for name in names})


def test_locking_seals_both_key_files_and_marks_what_was_in_the_clear():
    node = Node()
    pending = node.request()
    assert node.files.take_kek(FIRST) is LockChange.LOCKED
    assert node.readable() == []
    _, _, keys = node.files.read()
    marks = {"raft_dek_needs_rotation": True, "tls_key_needs_rotation": True}
    assert keys == replace(node.keys, **marks)
    assert node.files.pending() == replace(pending, tls_key_needs_rotation=True)
    node.files.write_renewed(node.next_chain)
    assert node.readable() == []
    assert node.files.read()[2].tls_key_pem == pending.tls_key_pem


def test_locked_files_need_the_key_at_a_start():
    node = Node(kek=FIRST)
    assert node.readable() == []
    files = node.restarted()
    for read in (files.read, files.own_identity, files.identity):
        with pytest.raises(LockedError):
            read()
    with pytest.raises(WrongKeyError):
        files.unlock(SECOND.key)
    with pytest.raises(LockedError):  # as before
        files.read()
    files.unlock(FIRST.key)
    assert files.read()[2] == node.keys
    assert files.own_identity().identity.node_id == "node1"


def test_all_that_share_a_holder_know_the_key_and_what_becomes_of_it():
    node, holder = Node(kek=FIRST), KekHolder()
    one, other = (NodeFiles(node.disk, FOLDER, holder) for _ in range(2))
    one.unlock(FIRST.key)
    assert other.read()[2] == node.keys
    assert other.take_kek(SECOND) is LockChange.ROTATED
    assert one.read()[2] == node.keys
    one.write_pending(node.keys)
    assert node.readable() == []
    holder.forget()
    with pytest.raises(LockedError):
        other.read()


def test_lock_follows_the_version_and_nothing_older():
    node = Node()
    steps = [
        (FIRST, LockChange.LOCKED),
        (replace(FIRST, version=15), LockChange.NONE),
        (UNLOCKED, LockChange.NONE),
        (SECOND, LockChange.ROTATED),
        (FIRST, LockChange.NONE),
        (OPEN, LockChange.UNLOCKED),
        (SECOND, LockChange.NONE),
        (Kek(key=b"3" * 32, version=40), LockChange.LOCKED),
    ]
    for kek, change in steps:
        assert node.files.take_kek(kek) is change
    with pytest.raises(DamagedError, match="two unlock keys"):
        node.files.take_kek(Kek(key=b"4" * 32, version=40))
    node.restarted(b"3" * 32).read()


def test_unlocking_leaves_no_mark_and_a_rotation_of_the_lock_no_new_one():
    node = Node(kek=FIRST)
    node.files.take_kek(SECOND)
    assert node.files.read()[2] == node.keys
    node.files.take_kek(OPEN)
    assert node.files.read()[2] == node.keys
    assert node.readable() == [f"{FOLDER}/{KEY_FILE}"]


def test_worker_is_never_locked():
    node = Node("worker")
    assert node.files.take_kek(FIRST) is LockChange.NONE
    assert node.restarted().read()[2] == node.keys


def test_keys_that_changed_since_a_request_are_kept_by_its_certificate():
    node = Node(kek=FIRST)
    pending = node.request()
    rotated = {"raft_dek": b"d" * 32, "raft_dek_pending": b"p" * 32}
    node.files.change_keys(lambda keys: replace(keys, **rotated))
    node.files.write_renewed(node.next_chain)
    expected = replace(node.keys, tls_key_pem=pending.tls_key_pem, **rotated)
    assert node.restarted(FIRST.key).read()[2] == expected


def test_pending_key_under_another_lock_is_dropped_by_the_next_change():
    node = Node(kek=FIRST)
    node.request()
    other = Node(kek=SECOND)
    other.request()
    node.disk._names[f"{FOLDER}/{PENDING_FILE}"].seen = other.disk.read(f"{FOLDER}/{PENDING_FILE}")
    files = node.restarted(FIRST.key)
    with pytest.raises(WrongKeyError):
        files.pending()
    files.take_kek(SECOND)
    assert files.pending() is None


def test_promoted_worker_is_locked_with_its_first_managers_certificate():
    node = Node("worker")
    pending = replace(node.request("manager"), raft_dek=b"d" * 32)
    node.files.write_renewed(node.next_chain, pending, FIRST)
    with pytest.raises(LockedError):
        node.restarted().read()
    assert node.restarted(FIRST.key).read()[2] == pending
    assert node.disk.plaintext_contains(b"PRIVATE KEY") == []


def test_demoted_manager_needs_no_key_any_more():
    node = Node(kek=FIRST)
    pending = replace(node.request("worker"), raft_dek=b"d" * 32)
    node.files.write_renewed(node.next_chain, pending, UNLOCKED)
    assert node.restarted().read()[2] == pending
    assert node.disk.plaintext_contains(node.keys.raft_dek) == []


def cut(step, check, role="manager", kek=UNLOCKED):
    """Every power cut within `step`: what it leaves is for `check`."""
    whole = Node(role, kek)
    before = whole.disk.operations
    step(whole)
    for operation in range(whole.disk.operations - before):
        for where in WHERES:
            node = Node(role, kek)
            node.disk.fail_at(operation, where)
            with pytest.raises(SimCrash):
                step(node)
            node.disk.crash(Random(f"{operation}{where}"))
            check(node)


def opened(node, *keks):
    """The files after a restart, with the one key they open with; all others are refused."""
    found = []
    for key in dict.fromkeys(kek.key for kek in keks):
        files = NodeFiles(node.disk, FOLDER)
        try:
            if key:
                files.unlock(key)
            files.read()
        except (LockedError, WrongKeyError):
            continue
        found.append((key, files))
    keys = [key for key, _ in found]
    assert len(keys) == 1 or keys == list(dict.fromkeys(kek.key for kek in keks))
    return found[0][1]


@pytest.mark.parametrize(
    ("present", "wanted"), [(UNLOCKED, FIRST), (FIRST, SECOND), (FIRST, OPEN)], ids=str
)
@pytest.mark.parametrize("has_request", [False, True])
def test_power_cut_while_the_lock_changes_leaves_one_lock_and_every_key(
    present, wanted, has_request
):
    def step(node):
        if has_request:
            node.request()
        node.files.take_kek(wanted)

    def check(node):
        files = opened(node, present, wanted)
        keys = files.read()[2]
        assert replace(keys, **clear_of_marks) == node.keys
        try:
            files.pending()
        except SwarmError:
            files.drop_pending()  # what a renewal does
        files.take_kek(wanted)
        again = opened(node, wanted)
        assert replace(again.read()[2], **clear_of_marks) == node.keys
        assert not wanted.locks or node.disk.plaintext_contains(b"PRIVATE KEY") == []

    clear_of_marks = {"raft_dek_needs_rotation": False, "tls_key_needs_rotation": False}
    cut(step, check, kek=present)


@pytest.mark.parametrize(
    ("role", "present", "wanted"),
    [("manager", UNLOCKED, FIRST), ("worker", FIRST, UNLOCKED), ("manager", FIRST, FIRST)],
    ids=["promotion", "demotion", "renewal"],
)
def test_power_cut_while_a_role_changes_leaves_one_certificate_with_its_keys(role, present, wanted):
    was = "worker" if wanted is not present and role == "manager" else "manager"

    def step(node):
        pending = node.request(role)
        node.pending = pending
        if wanted is present:
            node.files.write_renewed(node.next_chain)
        else:
            node.files.write_renewed(node.next_chain, pending, wanted)

    def check(node):
        files = opened(node, present, wanted)
        _, chain_pem, keys = files.read()
        if chain_pem == node.chain:
            assert keys == node.keys
        else:
            assert (chain_pem, keys) == (node.next_chain, node.pending)
            with_key = node.restarted(wanted.key) if wanted.locks else node.restarted()
            assert with_key.read()[2] == keys

    cut(step, check, role=was, kek=present)


def test_power_cut_while_keys_change_leaves_those_before_or_after():
    rotated = {"raft_dek_pending": b"p" * 32}

    def step(node):
        node.files.change_keys(lambda keys: replace(keys, **rotated))

    def check(node):
        keys = node.restarted(FIRST.key).read()[2]
        assert keys in (node.keys, replace(node.keys, **rotated))

    cut(step, check, kek=FIRST)

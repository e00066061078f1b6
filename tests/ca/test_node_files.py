"""A node's files when the power goes between any two of their writes."""

from random import Random

import pytest

from swarmlet.ca.key_file import KEY_FILE, PENDING_FILE, new_node_keys
from swarmlet.ca.keys import new_key
from swarmlet.ca.node_files import NodeFiles
from swarmlet.core.errors import DamagedError
from tests.agent.virtual_time import START_MS
from tests.ca.swarm import Swarm
from tests.sim.disk import WHERES, SimCrash, SimDisk

FOLDER = "/data/certificates"


class Node:
    """A node with a certificate, and a second one for a pending key."""

    def __init__(self):
        self.swarm, self.disk = Swarm(lambda: START_MS), SimDisk()
        self.files = NodeFiles(self.disk, FOLDER)
        entropy = self.swarm.entropy
        first, second = new_key(entropy), new_key(entropy)
        self.keys = new_node_keys(first, entropy(32), entropy(32))
        self.next_keys = new_node_keys(second, self.keys.raft_dek, self.keys.node_dek)
        self.chain = self.swarm.signed(first.public_key(), "node1", "worker")
        self.files.write(self.swarm.root.cert_pem, self.chain, self.keys)
        self.swarm.begin_rotation()  # so that the next chain has two certificates
        self.next_chain = self.swarm.signed(second.public_key(), "node1", "worker")
        self.operations = self.disk.operations

    def renew(self):
        self.files.write_pending(self.next_keys)
        self.files.write_renewed(self.next_chain)


def test_renewed_certificate_with_intermediate_is_read_with_its_key():
    node = Node()
    node.renew()
    _, chain_pem, keys = node.files.read()
    assert (chain_pem, keys) == (node.next_chain, node.next_keys)
    assert chain_pem.count(b"BEGIN CERTIFICATE") == 2
    assert node.disk.list_dir(FOLDER) == [
        "swarm-node.crt",
        "swarm-node.key",
        "swarm-root-ca.crt",
    ]


def test_own_identity_is_what_the_files_say():
    node = Node()
    own = node.files.own_identity()
    assert own.identity == node.files.identity()
    assert own.credentials.key_pem == node.keys.tls_key_pem
    assert own.credentials.chain_pem == node.chain
    assert "***" in repr(own.credentials)


def test_pending_key_does_not_count_before_its_certificate():
    node = Node()
    node.files.write_pending(node.next_keys)
    assert node.files.read()[2] == node.keys
    assert node.files.pending() == node.next_keys
    node.files.drop_pending()
    assert node.files.pending() is None


@pytest.mark.parametrize("where", WHERES)
def test_power_cut_during_a_renewal_leaves_one_certificate_with_its_key(where):
    count = Node().operations
    whole = Node()
    whole.renew()
    for operation in range(whole.disk.operations - count):
        for seed in range(6):
            node = Node()
            node.disk.fail_at(operation, where)
            with pytest.raises(SimCrash):
                node.renew()
            node.disk.crash(Random(f"{operation}/{seed}"))
            _, chain_pem, keys = node.files.read()
            assert (chain_pem, keys) in [
                (node.chain, node.keys),
                (node.next_chain, node.next_keys),
            ]
            assert node.files.read() == node.files.read()  # what reading finished stays
            pending = node.files.pending()
            assert pending in (None, node.next_keys)
            assert chain_pem == node.chain or pending is None


@pytest.mark.parametrize("where", WHERES)
def test_power_cut_during_a_change_of_root_leaves_one_of_both(where):
    for operation in range(4):
        for seed in range(6):
            node = Node()
            node.renew()
            node.disk.fail_at(operation, where)
            old, new = node.swarm.root.cert_pem, node.swarm.target.cert_pem
            try:
                node.files.write_root(new)
            except SimCrash:
                node.disk.crash(Random(f"{operation}/{seed}"))
            assert node.files.read()[0] in (old, new)


def test_certificate_whose_key_is_nowhere_is_damaged():
    node = Node()
    node.files.write_pending(node.next_keys)
    other = new_key(node.swarm.entropy)
    node.files.write_pending(new_node_keys(other, bytes(32), bytes(32)))
    node.disk.rename(f"{FOLDER}/{PENDING_FILE}", f"{FOLDER}/{KEY_FILE}")
    with pytest.raises(DamagedError, match="does not belong"):
        node.files.read()


def test_certificate_of_a_foreign_root_is_damaged():
    node = Node()
    foreign = Swarm(lambda: START_MS, seed=2)
    node.files.write_root(foreign.root.cert_pem)
    with pytest.raises(DamagedError, match=r"swarm-node\.crt is damaged"):
        node.files.read()


def test_pending_key_that_is_unreadable_is_damaged_and_named():
    node = Node()
    node.files.write_pending(node.next_keys)
    node.disk.damage(f"{FOLDER}/{PENDING_FILE}", 200, b"####")
    with pytest.raises(DamagedError, match=r"swarm-node\.key\.pending"):
        node.files.pending()
    assert node.files.read()[2] == node.keys  # what is not needed hurts nobody


def test_pending_key_is_private_from_the_first_byte():
    node = Node()
    node.files.write_pending(node.next_keys)
    assert node.disk._names[f"{FOLDER}/{PENDING_FILE}"].mode == 0o600

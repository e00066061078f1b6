"""Several keys: a file names its own, and what is written is sealed by the current one."""

from random import Random

import pytest

from swarmlet.core.errors import DamagedError
from swarmlet.env.sealed import (
    SealedLog,
    SealedWriter,
    SealKeys,
    is_sealed_by,
    read_sealed,
    seal_key,
)
from tests.sim.disk import SimDisk

OLD, NEW = seal_key(b"o" * 32), seal_key(b"n" * 32)
LOG, FILE = "/data/log", "/data/file"


def log_on(disk, keys, seed=0):
    return SealedLog(disk, LOG, keys, purpose=b"test", entropy=Random(seed).randbytes)


def write_file(disk, key):
    writer = SealedWriter(disk, FILE, key, purpose=b"test", entropy=Random(7).randbytes)
    writer.add(b"chunk")
    writer.finish()


def test_log_of_an_older_key_is_read_and_goes_on_under_it_until_it_is_rewritten():
    disk = SimDisk()
    log = log_on(disk, OLD)
    log.replay()
    log.append([b"one"])
    log.close()
    again = log_on(disk, SealKeys(current=NEW, older=(OLD,)), seed=1)
    assert again.replay() == [b"one"]
    assert not again.is_current
    again.append([b"two"])
    again.rewrite([b"one", b"two"])
    assert again.is_current
    again.close()
    assert log_on(disk, NEW, seed=2).replay() == [b"one", b"two"]
    with pytest.raises(DamagedError, match="is sealed with key"):
        log_on(disk, OLD, seed=3).replay()


def test_log_is_sealed_by_the_key_it_was_told_to_use_from_the_next_rewrite_on():
    disk = SimDisk()
    log = log_on(disk, OLD)
    assert not log.is_current
    log.replay()
    assert log.is_current
    log.use(SealKeys(current=NEW, older=(OLD,)))
    assert not log.is_current
    log.rewrite([b"one"])
    assert log.is_current
    log.close()
    assert log_on(disk, NEW, seed=1).replay() == [b"one"]


@pytest.mark.parametrize(
    ("keys", "is_read"),
    [
        (OLD, True),
        (SealKeys(current=NEW, older=(OLD,)), True),
        (SealKeys(current=OLD, older=(NEW,)), True),
        (SealKeys(current=NEW), False),
        (NEW, False),
    ],
)
def test_whole_file_is_read_by_whoever_has_its_key(keys, is_read):
    disk = SimDisk()
    write_file(disk, OLD)
    assert is_sealed_by(disk, FILE, OLD)
    assert not is_sealed_by(disk, FILE, NEW)
    if is_read:
        assert list(read_sealed(disk, FILE, keys, purpose=b"test")) == [b"chunk"]
    else:
        with pytest.raises(DamagedError, match=f"this node has key {NEW.key_id.hex()}"):
            list(read_sealed(disk, FILE, keys, purpose=b"test"))


def test_ring_shows_no_secret():
    assert "nnnn" not in repr(SealKeys(current=NEW, older=(OLD,)))

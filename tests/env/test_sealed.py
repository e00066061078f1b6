"""Sealed logs and files: what a crash may do to them, and what it may not."""

import struct
import zlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import DamagedError, DiskFullError
from swarmlet.env.frames import FILE_HEADER_B
from swarmlet.env.real import RealDisk
from swarmlet.env.sealed import (
    SealedLog,
    SealedWriter,
    SealKey,
    new_seal_key,
    read_sealed,
    seal_key,
)
from tests.sim.disk import WHERES, SimCrash, SimDisk

PATH = "/data/log"
STEP_B = 4096
RECORDS = [[b"first", b"of two"], [b"second" * 30], [b"third" * 200]]


def key_of(seed: int) -> SealKey:
    return seal_key(new_seal_key(Random(seed).randbytes))


KEY = key_of(1)


def log_on(disk, key=KEY, path=PATH, seed=0, purpose=b"test"):
    return SealedLog(
        disk,
        path,
        key,
        purpose=purpose,
        entropy=Random(f"e{seed}").randbytes,
        reserve_step_b=STEP_B,
    )


def written(disk, batches=RECORDS):
    """The log's size in bytes after each append."""
    log = log_on(disk)
    log.replay()
    sizes = []
    for batch in batches:
        log.append(batch)
        sizes.append(len(disk._names[PATH].seen))
    log.close()
    return sizes


def flat(batches):
    return [record for batch in batches for record in batch]


def test_sealed_record_is_on_disk_once_it_is_written_and_not_before():
    disk = SimDisk()
    log = log_on(disk)
    log.replay()
    log.append([b"one"])
    log.seal([b"left alone"])
    assert log_on(disk, seed=1).replay() == [b"one"]
    log.write(log.seal([b"two"]))
    disk.crash(Random(1))
    disk.reopen()
    assert log_on(disk).replay() == [b"one", b"two"]


def test_log_returns_records_in_order_after_a_restart():
    disk = SimDisk()
    written(disk)
    assert log_on(disk, seed=1).replay() == flat(RECORDS)


def test_log_goes_on_where_it_ended():
    disk = SimDisk()
    written(disk)
    again = log_on(disk, seed=1)
    again.replay()
    again.append([b"fourth"])
    assert log_on(disk, seed=2).replay() == [*flat(RECORDS), b"fourth"]


def test_log_works_on_a_real_disk(tmp_path):
    path = str(tmp_path / "log")
    log = log_on(RealDisk(), path=path)
    assert log.replay() == []
    log.append([b"one"])
    assert STEP_B < log.free_b < 2 * STEP_B
    log.rewrite([b"two", b"three"])
    log.append([b"four"])
    log.close()
    again = log_on(RealDisk(), path=path, seed=1)
    assert again.replay() == [b"two", b"three", b"four"]
    again.close()


@pytest.mark.parametrize("reserved", [False, True])
def test_torn_last_write_is_cut_off_at_every_byte(reserved):
    disk = SimDisk()
    *_, before, end = written(disk)
    whole = disk.read(PATH)
    for cut in range(before, end):
        disk.damage(PATH, 0, whole[:cut].ljust(len(whole), b"\0"))
        if not reserved:
            disk.cut(PATH, cut)
        log = log_on(disk, seed=cut)
        assert log.replay() == flat(RECORDS[:2])
        log.append([b"again"])
        log.close()
        assert log_on(disk, seed=-1).replay() == [*flat(RECORDS[:2]), b"again"]


def test_write_that_lacks_sectors_in_its_middle_is_cut_off():
    disk = SimDisk()
    batches = [[b"a" * 100], [bytes(range(256)) * 12]]
    start, end = written(disk, batches)
    whole = disk.read(PATH)
    for sector in range(start // 512, end // 512):
        low, high = max(start, sector * 512), min(end, sector * 512 + 512)
        disk.damage(PATH, 0, whole[:low] + bytes(high - low) + whole[high:])
        assert log_on(disk).replay() == batches[0]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bit_is_never_read_as_data(data):
    disk = SimDisk()
    end = written(disk)[-1]
    at, bit = data.draw(st.integers(0, end - 1)), data.draw(st.integers(0, 7))
    disk.damage(PATH, at, bytes([disk.read(PATH)[at] ^ (1 << bit)]))
    with pytest.raises(DamagedError) as caught:
        log_on(disk).replay()
    assert PATH in caught.value.message
    assert caught.value.remedy


def test_damaged_frame_before_intact_ones_is_refused_and_says_where():
    disk = SimDisk()
    first, second, _ = written(disk)
    disk.damage(PATH, first + 40, bytes(60))
    with pytest.raises(DamagedError, match=f"at byte {first}.*follow at byte {second}"):
        log_on(disk).replay()


def test_missing_frame_is_refused():
    disk = SimDisk()
    first, second, end = written(disk)
    whole = disk.read(PATH)
    disk.damage(PATH, 0, (whole[:first] + whole[second:end]).ljust(len(whole), b"\0"))
    with pytest.raises(DamagedError, match="frame 1 is missing, 2 follows"):
        log_on(disk).replay()


def test_frame_of_another_log_is_refused():
    ours, theirs = SimDisk(), SimDisk()
    first, second, _ = written(ours)
    log = log_on(theirs, seed="another")
    log.replay()
    for batch in RECORDS:
        log.append(batch)
    ours.damage(PATH, first, theirs.read(PATH)[first:second])
    with pytest.raises(DamagedError, match="altered, or is not of this file"):
        log_on(ours).replay()


@pytest.mark.parametrize(
    ("key", "purpose", "problem"),
    [(key_of(2), b"test", "sealed with key"), (KEY, b"other", "altered, or is not of this file")],
)
def test_wrong_key_or_purpose_is_refused_in_a_sentence(key, purpose, problem):
    disk = SimDisk()
    written(disk)
    with pytest.raises(DamagedError, match=problem):
        log_on(disk, key=key, purpose=purpose).replay()


def test_other_format_is_refused_in_a_sentence():
    disk = SimDisk()
    written(disk)
    header = bytearray(disk.read(PATH)[: FILE_HEADER_B - 4])
    struct.pack_into("<H", header, 8, 7)
    disk.damage(PATH, 0, bytes(header) + struct.pack("<I", zlib.crc32(header)))
    with pytest.raises(DamagedError, match=r"has format 7; this swarmlet reads format 1\."):
        log_on(disk).replay()


@pytest.mark.parametrize("size_b", [0, 1, FILE_HEADER_B - 1])
def test_cut_header_is_refused(size_b):
    disk = SimDisk()
    written(disk)
    disk.cut(PATH, size_b)
    with pytest.raises(DamagedError, match="header is cut off"):
        log_on(disk).replay()


def test_nothing_is_readable_and_no_nonce_comes_twice():
    disk = SimDisk()
    log = log_on(disk)
    log.replay()
    log.append([b"the secret word"])
    whole = disk.read(PATH)
    log.close()
    disk.cut(PATH, len(whole.rstrip(b"\0")) - 3)  # torn: the number comes again
    log = log_on(disk, seed=1)
    assert log.replay() == []
    log.append([b"the secret word"])
    assert disk.plaintext_contains(b"secret") == []
    session = slice(FILE_HEADER_B + 12, FILE_HEADER_B + 16)
    assert whole[session] != disk.read(PATH)[session]


def test_number_that_comes_again_after_a_failed_write_has_another_nonce():
    disk = SimDisk()
    first, _ = written(disk, [[b"one"], [b"two"]])
    log = log_on(disk, seed=1)
    log.replay()
    log.append([b"three"])
    disk.error_at(0, DiskFullError("full"))
    with pytest.raises(DiskFullError):
        log.append([b"four"])
    size = len(disk._names[PATH].seen)
    log.append([b"five"])
    session = slice(12, 16)
    third = disk.read(PATH)[2 * first - FILE_HEADER_B :][session]
    assert third != disk.read(PATH)[size:][session]
    assert log_on(disk, seed=2).replay() == [b"one", b"two", b"three", b"five"]


def test_full_disk_is_noticed_before_anything_is_written():
    disk = SimDisk(capacity_b=2 * STEP_B)
    log = log_on(disk)
    log.replay()
    log.append([b"kept"])
    before = disk.read(PATH)
    with pytest.raises(DiskFullError):
        log.make_room(2 * STEP_B)
    with pytest.raises(DiskFullError):
        log.append([bytes(3 * STEP_B)])
    assert disk.read(PATH) == before
    disk.capacity_b *= 4
    log.append([b"goes on"])
    assert log_on(disk, seed=1).replay() == [b"kept", b"goes on"]


def test_rewrite_on_a_full_disk_leaves_the_old_file_in_use():
    disk = SimDisk(capacity_b=3 * STEP_B)
    log = log_on(disk)
    log.replay()
    log.append([b"old"])
    with pytest.raises(DiskFullError):
        log.rewrite([b"new"])
    log.append([b"older"])
    assert log_on(disk, seed=1).replay() == [b"old", b"older"]
    assert disk.list_dir("/data") == ["log"]


def operations_of(work) -> int:
    disk = SimDisk()
    work(disk)
    return disk.operations


def log_workload(disk, acked=None):
    acked = [] if acked is None else acked
    log = log_on(disk)
    log.replay()
    for number in range(3):
        log.append([b"%d" % number * 700])
        acked.append(("append", b"%d" % number * 700))
    log.rewrite([b"base"])
    acked.append(("rewrite", b"base"))
    log.append([b"after"])
    acked.append(("append", b"after"))


def expected(acked):
    records = []
    for verb, record in acked:
        records = [record] if verb == "rewrite" else [*records, record]
    return records


ALL: list = []
log_workload(SimDisk(), ALL)


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("operation", range(operations_of(log_workload)))
def test_crash_at_any_operation_keeps_what_was_acknowledged(operation, where):
    for seed in range(6):
        disk, acked = SimDisk(), []
        disk.fail_at(operation, where)
        with pytest.raises(SimCrash):
            log_workload(disk, acked)
        disk.crash(Random(seed))
        found = log_on(disk, seed=seed).replay()
        assert found in (expected(acked), expected(ALL[: len(acked) + 1]))


CHUNKS = [b"chunk %d" % n * 50 for n in range(4)]


def whole_file(disk, chunks, seed=0):
    writer = SealedWriter(disk, PATH, KEY, purpose=b"w", entropy=Random(f"w{seed}").randbytes)
    try:
        for chunk in chunks:
            writer.add(chunk)
        writer.finish()
    except Exception:
        writer.abort()
        raise


def whole_read(disk):
    return list(read_sealed(disk, PATH, KEY, purpose=b"w"))


def test_whole_file_is_read_back_and_shows_nothing():
    disk = SimDisk()
    whole_file(disk, CHUNKS)
    assert whole_read(disk) == CHUNKS
    assert disk.plaintext_contains(b"chunk") == []


def test_whole_file_cut_at_any_byte_is_refused():
    disk = SimDisk()
    whole_file(disk, CHUNKS)
    whole = disk.read(PATH)
    for size_b in range(len(whole)):
        disk.damage(PATH, 0, whole)
        disk.cut(PATH, size_b)
        with pytest.raises(DamagedError):
            whole_read(disk)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whole_file_with_a_flipped_bit_is_refused(data):
    disk = SimDisk()
    whole_file(disk, CHUNKS)
    at = data.draw(st.integers(0, len(disk.read(PATH)) - 1))
    disk.damage(PATH, at, bytes([disk.read(PATH)[at] ^ (1 << data.draw(st.integers(0, 7)))]))
    with pytest.raises(DamagedError):
        whole_read(disk)


@pytest.mark.parametrize("where", WHERES)
def test_crash_while_replacing_a_whole_file_leaves_the_old_or_the_new(where):
    steps = operations_of(lambda disk: whole_file(disk, CHUNKS))
    for operation in range(steps):
        for seed in range(6):
            disk = SimDisk()
            whole_file(disk, [b"old"])
            disk.fail_at(operation, where)
            with pytest.raises(SimCrash):
                whole_file(disk, CHUNKS, seed=1)
            disk.crash(Random(seed))
            assert whole_read(disk) in ([b"old"], CHUNKS)


def test_full_disk_while_replacing_a_whole_file_leaves_the_old():
    disk = SimDisk(capacity_b=1000)
    whole_file(disk, [b"old"])
    with pytest.raises(DiskFullError):
        whole_file(disk, CHUNKS * 9, seed=1)
    assert whole_read(disk) == [b"old"]
    assert disk.list_dir("/data") == ["log"]


def test_key_hides_its_secret_and_is_named_by_it():
    secret = new_seal_key(Random(3).randbytes)
    assert seal_key(secret) == key_of(3) != KEY
    assert secret.hex() not in repr(seal_key(secret))
    assert repr(secret) not in repr(seal_key(secret))
    with pytest.raises(DamagedError, match="31 bytes"):
        seal_key(secret[1:])


def test_new_whole_file_that_cannot_take_its_place_leaves_the_old_one():
    disk = SimDisk()
    whole_file(disk, [b"old"])
    disk.error_at(5, DiskFullError("full"))  # the renaming, after the file is closed
    with pytest.raises(DiskFullError):
        whole_file(disk, [b"new"])
    assert whole_read(disk) == [b"old"]
    assert not disk.exists(PATH + ".new")


def test_whole_file_can_be_given_up_after_it_took_its_place():
    disk = SimDisk()
    writer = SealedWriter(disk, PATH, KEY, purpose=b"w", entropy=Random(1).randbytes)
    writer.add(b"new")
    writer.finish()
    writer.abort()
    assert whole_read(disk) == [b"new"]

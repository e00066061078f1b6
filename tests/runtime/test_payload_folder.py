"""The folder on a tmpfs: whose it is, what is in it, and what is swept."""

import os
import tempfile
from pathlib import Path

import pytest

from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.payload_folder import (
    PayloadFile,
    PayloadFolder,
    file_system_of,
    folders_for,
)


@pytest.fixture
def memory():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield folder


def modes_below(top: str) -> dict[str, int]:
    return {
        str(path.relative_to(top)): path.stat().st_mode & 0o7777
        for path in sorted(Path(top).rglob("*"))
    }


def test_file_system_is_named_as_the_kernel_does(memory):
    assert file_system_of(memory) == "tmpfs"
    assert file_system_of("/proc") == "proc"


def test_everybody_has_places_to_look_for_a_tmpfs():
    assert folders_for(0, {})[0] == "/run/swarmlet/payloads"
    assert folders_for(7, {"XDG_RUNTIME_DIR": "/x/"})[0] == "/x/swarmlet/payloads"
    assert folders_for(7, {}) == ("/run/user/7/swarmlet/payloads", "/dev/shm/swarmlet-7")


def test_files_are_written_in_folders_that_nobody_else_enters(memory):
    folder = PayloadFolder([f"{memory}/base"], "owner")
    place = folder.write("t", [PayloadFile("a/b", b"x" * 100_000, 0o404), PayloadFile("c", b"", 0)])
    name = os.path.basename(os.path.dirname(place))
    assert modes_below(memory) == {
        "base": 0o711,
        f"base/{name}": 0o700,
        f"base/{name}/t": 0o700,
        f"base/{name}/t/a": 0o755,
        f"base/{name}/t/a/b": 0o404,
        f"base/{name}/t/c": 0,
    }
    assert Path(place, "a/b").read_bytes() == b"x" * 100_000
    folder.write("t", [PayloadFile("d", b"y", 0o400)])
    assert os.listdir(place) == ["d"]


def test_first_tmpfs_is_taken_and_a_disk_never(memory):
    types = {memory: "tmpfs"}
    folder = PayloadFolder(
        ["/nowhere/at/all", f"{memory}/x"], "o", type_of=lambda path: types.get(path, "ext4")
    )
    assert folder.of("t").startswith(f"{memory}/x/")
    with pytest.raises(RuntimeProblemError, match="never written to a disk"):
        PayloadFolder([f"{memory}/x"], "o", type_of=lambda _: "ext4").write("t", [])


def test_room_is_kept_and_filled_in_place(memory):
    folder = PayloadFolder([f"{memory}/base"], "owner")
    place = folder.make_room("t", ["0", "1"])
    before = os.stat(f"{place}/0").st_ino
    folder.fill("t", [PayloadFile("0", b"old and long", 0o440)])
    folder.fill("t", [PayloadFile("0", b"new", 0o440)])
    folder.make_room("t", ["0", "1"])
    assert Path(place, "0").read_bytes() == b"new"
    assert os.stat(f"{place}/0").st_ino == before  # what is bound stays bound


def test_what_others_left_is_swept_and_the_rest_kept(memory):
    mine, other = (PayloadFolder([f"{memory}/base"], owner) for owner in ("a", "b"))
    for folder in (mine, other):
        for task_id in ("t", "u"):
            folder.write(task_id, [PayloadFile("x", b"", 0o400)])
    mine.keep_only({"t"})
    assert [os.path.isdir(one.of(t)) for one in (mine, other) for t in ("t", "u")] == [
        *(True, False),
        *(True, True),
    ]
    mine.drop("t")
    mine.drop("t")
    assert not os.path.exists(os.path.dirname(mine.of("t")))
    PayloadFolder(["/nowhere/at/all"], "a").keep_only(set())


def test_folder_of_somebody_else_is_not_trusted(memory):
    Path(memory, "real").mkdir()
    os.symlink(f"{memory}/real", f"{memory}/base")
    with pytest.raises(RuntimeProblemError, match="belongs to somebody else"):
        PayloadFolder([f"{memory}/base"], "o").write("t", [])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another's folder")
def test_folder_that_another_user_made_is_not_trusted(memory):
    Path(memory, "base").mkdir()
    os.chown(f"{memory}/base", 1234, 1234)
    with pytest.raises(RuntimeProblemError, match="belongs to somebody else"):
        PayloadFolder([f"{memory}/base"], "o").write("t", [])

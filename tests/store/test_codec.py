"""Entries: every change survives them, stays small, and its bytes keep their meaning."""

from random import Random

import msgspec
import pytest

from swarmlet.core.errors import DamagedError
from swarmlet.core.ids import new_id
from swarmlet.model.change import (
    TABLES,
    Assign,
    Create,
    Exists,
    Note,
    NotInUse,
    PortFree,
    Remove,
    SetDesired,
    SetNodeStatus,
    SetStatus,
    Update,
)
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.node import NodeStatus
from swarmlet.model.secret import Secret
from swarmlet.model.service import GenericResource, NamedGenericResource
from swarmlet.model.task import NetworkAttachment, Task, TaskStatus
from swarmlet.store import codec
from swarmlet.store.codec import (
    AssignRecord,
    AssignWithRecord,
    CreateRecord,
    DesiredRecord,
    ExistsRecord,
    NodeStatusRecord,
    NoteRecord,
    NotInUseRecord,
    PortFreeRecord,
    RemoveRecord,
    StatusRecord,
    UpdateRecord,
    decode_entry,
    decode_row,
    encode_change,
    encode_entry,
)
from tests.store.worlds import (
    START_MS,
    cluster,
    config,
    endpoint,
    network,
    node,
    port,
    secret,
    service,
    spec,
    task,
    volume,
)

RNG = Random(7)
TASK_ID, SERVICE_ID, NODE_ID = (new_id(RNG.randbytes) for _ in range(3))
ROWS = (
    cluster(),
    node(),
    service(endpoint=endpoint(port(80))),
    spec(secrets=("x0",), ports=(port(80),)),
    task(),
    network(),
    secret(),
    config(),
    volume(),
)
GPU = GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value="GPU-1"))
STATUS = TaskStatus(state=512, at_ms=START_MS, message="started", container_id="c" * 64, pid=4711)


def change_of(*changes, guards=()):
    entry = encode_entry(5, START_MS, [encode_change(one) for one in changes], guards)
    return decode_entry(entry)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_row_of_every_table_survives_the_log(row):
    created, updated = change_of(Create(obj=row), Create(obj=row)).changes
    assert isinstance(created, CreateRecord)
    assert decode_row(created.table, created.obj) == row
    assert TABLES[updated.table] is type(row)


def test_every_verb_and_guard_survives_the_log():
    entry = change_of(
        Update(obj=config(), seen=4),
        Remove(table=Secret, id="x0", seen=3),
        Assign(id=TASK_ID, node_id=NODE_ID),
        Assign(id=TASK_ID, node_id=NODE_ID, message="another"),
        SetStatus(id=TASK_ID, status=STATUS),
        SetDesired(id=TASK_ID, desired=640, seen=9),
        SetNodeStatus(id=NODE_ID, status=NodeStatus(state=2, addr="10.0.0.1")),
        Note(kind="task", action="exec", id=TASK_ID, attributes=(("who", "root"),)),
        Assign(id=TASK_ID, node_id=NODE_ID, generic_resources=(GPU,)),
        guards=(
            Exists(table=Secret, id="x0"),
            NotInUse(table=Config, id="c0"),
            PortFree(service_id=SERVICE_ID, protocol="udp", port=53, mode="host"),
        ),
    )
    assert (entry.version, entry.proposal_id, entry.stamp_ms) == (1, 5, START_MS)
    update, *others = entry.changes
    assert isinstance(update, UpdateRecord)
    assert (update.seen, decode_row(update.table, update.obj)) == (4, config())
    assert others == [
        RemoveRecord(6, "x0", 3),
        AssignRecord(TASK_ID, NODE_ID, ""),
        AssignRecord(TASK_ID, NODE_ID, "another"),
        StatusRecord(TASK_ID, STATUS),
        DesiredRecord(TASK_ID, 640, 9),
        NodeStatusRecord(NODE_ID, NodeStatus(state=2, addr="10.0.0.1")),
        NoteRecord("task", "exec", TASK_ID, (("who", "root"),)),
        AssignWithRecord(TASK_ID, NODE_ID, "", (GPU,)),
    ]
    assert entry.guards == (
        ExistsRecord(6, "x0"),
        NotInUseRecord(7, "c0"),
        PortFreeRecord(SERVICE_ID, "udp", 53, "host"),
    )
    assert codec.assigned_message(others[1]) == "scheduler assigned task to node"
    assert codec.assigned_message(others[2]) == "another"


def test_spec_version_is_never_updated():
    with pytest.raises(AssertionError, match="never change"):
        encode_change(Update(obj=spec(), seen=1))


NEW_TASK = Task(id=TASK_ID, service_id=SERVICE_ID, slot=3, status=TaskStatus(at_ms=START_MS))
ATTACHED = msgspec.structs.replace(
    NEW_TASK, networks=(NetworkAttachment(network_id=NODE_ID, addresses=("10.0.1.17/24",)),)
)


@pytest.mark.parametrize(
    ("change", "size_max_b"),
    [
        (Assign(id=TASK_ID, node_id=NODE_ID), 61),
        (SetStatus(id=TASK_ID, status=msgspec.structs.replace(STATUS, container_id="")), 86),
        (SetStatus(id=TASK_ID, status=STATUS), 155),
        (SetDesired(id=TASK_ID, desired=640), 40),
        (Create(obj=NEW_TASK), 110),
        (Create(obj=ATTACHED), 155),
    ],
    ids=["assign", "status", "status with container", "desired", "task", "task with network"],
)
def test_frequent_change_is_small(change, size_max_b):
    assert len(encode_change(change)) <= size_max_b


GOLDEN = (
    "95010acf0000018bcfe56800"  # version 1, proposal 10, stamp
    "93930106a27830930207a263309503a27361a375647035a4686f7374"  # guards
    "97"
    "93010795a2633083a44e616d65a161a64c6162656c7380a444617461c40178000000"  # create
    "94020795a2633083a44e616d65a161a64c6162656c7380a444617461c4017800000004"  # update
    "940306a2783003"  # remove
    "9404a27430a26e30a0"  # assign
    "9305a274309acd0200cf0000018bcfe56800a0a0a0000090a000"  # status
    "9406a27430cd0280ff"  # desired
    "9307a26e309302a0a0"  # node status
)


def test_bytes_of_the_first_version_are_read_for_ever():
    entry = decode_entry(bytes.fromhex(GOLDEN))
    assert (entry.version, entry.proposal_id, entry.stamp_ms) == (1, 10, START_MS)
    assert entry.guards == (
        ExistsRecord(6, "x0"),
        NotInUseRecord(7, "c0"),
        PortFreeRecord("sa", "udp", 53, "host"),
    )
    create, update, *others = entry.changes
    row = Config(id="c0", spec=ConfigSpec(name="a", data=b"x"))
    assert isinstance(create, CreateRecord)
    assert isinstance(update, UpdateRecord)
    assert decode_row(create.table, create.obj) == decode_row(update.table, update.obj) == row
    assert others == [
        RemoveRecord(6, "x0", 3),
        AssignRecord("t0", "n0", ""),
        StatusRecord("t0", TaskStatus(state=512, at_ms=START_MS)),
        DesiredRecord("t0", 640, -1),
        NodeStatusRecord("n0", NodeStatus(state=2)),
    ]


def test_entry_of_a_later_version_is_refused_with_the_remedy():
    entry = bytearray(encode_entry(5, 1, []))
    entry[1] = 2
    with pytest.raises(DamagedError, match="version 2") as caught:
        decode_entry(bytes(entry))
    assert "newer" in caught.value.remedy


@pytest.mark.parametrize("entry", [b"", b"\x95", b"\x95\x01\x00", b"\x93\x01\x02\x03", b"\x01\x01"])
def test_damaged_entry_is_refused(entry):
    with pytest.raises(DamagedError):
        decode_entry(entry)
    with pytest.raises(DamagedError):
        codec.proposal_id_of(entry[:2])


def test_row_of_an_unknown_table_is_refused():
    with pytest.raises(DamagedError, match="table 99"):
        decode_row(99, msgspec.Raw(b"\x90"))


def test_proposal_is_read_without_the_changes():
    raws = [encode_change(Create(obj=config()))]
    assert codec.proposal_id_of(encode_entry(2**62, 1, raws)) == 2**62

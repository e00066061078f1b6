"""The daemon's small parts: data directory, addresses, log lines, gauges."""

import asyncio
import json
import logging
import socket
import zlib

import pytest

from swarmlet.api.engine import InitRequest
from swarmlet.core.errors import (
    DamagedError,
    FailedPreconditionError,
    InvalidArgumentError,
    SwarmStateError,
)
from swarmlet.core.ids import NodeID
from swarmlet.daemon.addresses import HostAddresses
from swarmlet.daemon.data_dir import DataDir, SwarmFile, locked
from swarmlet.daemon.founding import plan_swarm
from swarmlet.daemon.gauges import Gauges
from swarmlet.daemon.logs import JsonFormat, TextFormat
from swarmlet.env.real import RealDisk, real_env
from swarmlet.manager.bootstrap import ingress_subnet
from swarmlet.model.cluster import SwarmSpec
from swarmlet.wire.messages import ManagerAddr

FILE = SwarmFile(
    node_id="n",
    cluster_id="c",
    raft_id=7,
    listen_addr="0.0.0.0:2377",
    advertise_addr="127.0.0.1:2377",
    runtime="process",
    data_path_addr="",
)


def opened(tmp_path):
    data = DataDir(RealDisk(), str(tmp_path / "data"))
    data.open()
    return data


def test_own_address_is_the_one_that_the_named_hosts_see():
    addresses = HostAddresses()
    assert addresses.own(["127.0.0.9"]) == "127.0.0.1"
    assert addresses.own(["localhost"]) in ("127.0.0.1", "::1")
    assert addresses.own(["no such host."]) == addresses.own()


def test_swarm_file_is_there_from_entering_to_leaving(tmp_path):
    data = opened(tmp_path)
    assert data.swarm_file() is None
    data.prepare_swarm(FILE)
    assert opened(tmp_path).swarm_file() is None
    data.enter_swarm()
    assert opened(tmp_path).swarm_file() == FILE
    data.leave_swarm()
    assert opened(tmp_path).swarm_file() is None


async def test_new_swarm_keeps_the_address_for_the_tasks_traffic(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    listen = f"127.0.0.1:{port}"
    request = InitRequest(spec=SwarmSpec(), listen_addr=listen, data_path_addr="lo")
    plan = await plan_swarm(real_env(), HostAddresses(), request, "process")
    data = opened(tmp_path)
    data.prepare_swarm(plan.file)
    data.enter_swarm()
    assert data.swarm_file().data_path_addr == "127.0.0.1"


def test_engine_id_is_made_once(tmp_path):
    first = opened(tmp_path).engine_id(lambda n: b"\1" * n)
    assert opened(tmp_path).engine_id(lambda n: b"\2" * n) == first


@pytest.mark.parametrize("content", [b"", b"{", b'{"node_id": 5}'])
def test_unreadable_swarm_file_is_damaged(tmp_path, content):
    data = opened(tmp_path)
    data.prepare_swarm(FILE)
    data.enter_swarm()
    (tmp_path / "data/swarm/state.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"state\.json"):
        data.swarm_file()


def test_lost_swarm_file_is_damage_and_removes_nothing(tmp_path):
    data = opened(tmp_path)
    data.prepare_swarm(FILE)
    data.enter_swarm()
    (tmp_path / "data/raft").mkdir()
    (tmp_path / "data/raft/journal").write_bytes(b"precious")
    (tmp_path / "data/swarm/state.json").unlink()
    with pytest.raises(DamagedError, match=r"state\.json is missing"):
        data.swarm_file()
    assert (tmp_path / "data/raft/journal").read_bytes() == b"precious"


def test_swarm_file_with_any_byte_changed_is_damaged(tmp_path):
    data = opened(tmp_path)
    data.prepare_swarm(FILE)
    data.enter_swarm()
    path = tmp_path / "data/swarm/state.json"
    raw = path.read_bytes()
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x81]) + raw[at + 1 :])
        with pytest.raises(DamagedError, match=r"state\.json"):
            data.swarm_file()


def test_swarm_file_of_an_earlier_version_is_read(tmp_path):
    data = opened(tmp_path)
    data.prepare_swarm(FILE)
    data.enter_swarm()
    path = tmp_path / "data/swarm/state.json"
    fields = json.loads(path.read_bytes())
    del fields["announce"]
    plain = json.dumps({**fields, "checksum": 0}, separators=(",", ":")).encode()
    path.write_bytes(plain.removesuffix(b"0}") + b"%d}" % zlib.crc32(plain))
    assert data.swarm_file() == FILE


def test_managers_are_kept_and_a_changed_byte_is_damage(tmp_path):
    data = opened(tmp_path)
    data.prepare_swarm(FILE)
    assert data.known_managers.read() == ()
    managers = (ManagerAddr(node_id=NodeID("m"), addr="[::1]:2377"),)
    data.known_managers.write(managers)
    assert opened(tmp_path).known_managers.read() == managers
    path = tmp_path / "data/swarm/managers.json"
    path.write_bytes(path.read_bytes().replace(b"2377", b"2378"))
    with pytest.raises(DamagedError, match="checksum"):
        data.known_managers.read()


@pytest.mark.parametrize("content", [b"", b"\xff" * 25, b"short"])
def test_damaged_engine_id_is_refused(tmp_path, content):
    data = opened(tmp_path)
    (tmp_path / "data/engine-id").write_bytes(content)
    with pytest.raises(DamagedError, match="engine-id"):
        data.engine_id(lambda n: b"\1" * n)


def test_lock_is_for_one_daemon_at_a_time(tmp_path):
    path = str(tmp_path)
    with (
        locked(path),
        pytest.raises(SwarmStateError, match="Another swarmlet daemon"),
        locked(path),
    ):
        pass
    with locked(path):
        pass


def test_taken_address_is_refused_and_a_free_one_is_not():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(FailedPreconditionError, match="already in use"):
            HostAddresses().check_free("127.0.0.1", port)
    HostAddresses().check_free("127.0.0.1", port)


def test_address_of_another_host_is_refused():
    with pytest.raises(FailedPreconditionError, match="does not belong to this host"):
        HostAddresses().check_free("192.0.2.77", 2377)


def test_interface_stands_for_its_address_and_an_address_for_itself():
    addresses = HostAddresses()
    assert addresses.resolve("lo") == "127.0.0.1"
    assert [addresses.resolve(ip) for ip in ("192.0.2.7", "::1")] == ["192.0.2.7", "::1"]


def test_host_name_stands_for_the_address_it_has():
    assert HostAddresses().resolve("localhost") in ("127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["eth99", "lo" + "o" * 70])
def test_what_is_neither_address_interface_nor_host_is_refused(host):
    with pytest.raises(InvalidArgumentError, match="no IP address, no interface of this host"):
        HostAddresses().resolve(host)


def record(**fields):
    line = logging.makeLogRecord({"msg": "task.started", "levelname": "INFO", "created": 0.5})
    vars(line).update(fields)
    return line


def test_text_line_has_time_level_event_and_fields():
    line = TextFormat().format(record(task_id="t1", reason="two words"))
    assert line == '1970-01-01T00:00:00.500Z INFO    task.started task_id=t1 reason="two words"'


def test_json_line_has_every_field():
    entry = json.loads(JsonFormat().format(record(task_id="t1")))
    assert entry == {
        "time": "1970-01-01T00:00:00.500Z",
        "level": "info",
        "event": "task.started",
        "task_id": "t1",
    }


@pytest.mark.parametrize(
    ("pools", "size", "subnet", "gateway"),
    [
        ((), 0, "10.0.0.0/24", "10.0.0.1"),
        (("10.20.0.0/16",), 26, "10.20.0.0/26", "10.20.0.1"),
        (("10.20.0.0/25",), 24, "10.20.0.0/25", "10.20.0.1"),
    ],
)
def test_ingress_gets_the_first_subnet(pools, size, subnet, gateway):
    pool = ingress_subnet(pools, size)
    assert (pool.subnet, pool.gateway) == (subnet, gateway)


async def test_loop_lag_is_the_worst_since_the_last_reading():
    gauges = Gauges()
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(gauges.watch_loop())
        await asyncio.sleep(0)
        assert gauges.read()["process_resident_memory_bytes"] > 1_000_000
        watch.cancel()

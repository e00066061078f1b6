"""kill -9 at any moment loses nothing acknowledged and stops no task; races have one winner."""

import base64
import http.client
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.daemon.harness import ApiError, Client, pid_of, service, wait_running

KILLS = int(os.environ.get("SWARMLET_KILLS", "8"))
RACES = int(os.environ.get("SWARMLET_RACES", "60"))


def config(name, data=b"x"):
    return {"Name": name, "Labels": {}, "Data": base64.b64encode(data).decode()}


def write_until_dead(path, name, acked, stop):
    client, turn = Client(path, 10.0), 0
    while not stop.is_set():
        wanted = f"{name}-{turn}"
        try:
            client.post("/configs/create", config(wanted))
        except (OSError, ApiError):
            return
        acked.append(wanted)
        turn += 1


def test_nothing_acknowledged_is_lost_and_no_task_is_stopped_by_kill_9(swarm):
    client, rng, acked = swarm.client(), random.Random(1), []
    client.post("/services/create", service("web", replicas=2))
    pids = {t["ID"]: pid_of(t) for t in wait_running(client, "web", 2)}
    for turn in range(KILLS):
        stop = threading.Event()
        with ThreadPoolExecutor(4) as pool:
            for writer in range(4):
                pool.submit(write_until_dead, swarm.socket, f"k{turn}-{writer}", acked, stop)
            stop.wait(rng.uniform(0.02, 0.4))
            swarm.kill()
            stop.set()
        assert all(Path(f"/proc/{pid}").exists() for pid in pids.values())
        swarm.start()
        client = swarm.client()
        present = {c["Spec"]["Name"] for c in client.get("/configs")}
        assert set(acked) <= present
    assert {t["ID"]: pid_of(t) for t in wait_running(client, "web", 2)} == pids
    assert len(acked) > KILLS


def both(first, second):
    """Run both at the same moment; the errors they raised, None for success."""
    barrier = threading.Barrier(2)

    def run(work):
        barrier.wait()
        try:
            work()
        except ApiError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        return [done.result() for done in (pool.submit(run, first), pool.submit(run, second))]


def test_two_clients_that_create_the_same_name_have_one_winner(swarm):
    clients = [swarm.client(), swarm.client()]
    for turn in range(RACES):
        spec = service(f"same-{turn}", replicas=0)
        errors = both(*[lambda c=c, s=spec: c.post("/services/create", s) for c in clients])
        lost = [error for error in errors if error is not None]
        assert [error.status for error in lost] == [409]


def test_secret_is_removed_or_used_but_never_both(swarm):
    """A thousand times with SWARMLET_RACES=1000."""
    one, other = swarm.client(), swarm.client()
    used = removed = 0
    for turn in range(RACES):
        name = f"n-{turn}"
        secret_id = one.post("/secrets/create", config(name))["ID"]
        file = {"Name": name, "UID": "0", "GID": "0", "Mode": 0o444}
        reference = {"SecretID": secret_id, "SecretName": name, "File": file}
        spec = service(name, replicas=0, Secrets=[reference])
        kept, gone = both(
            lambda n=name: one.delete(f"/secrets/{n}"),
            lambda s=spec: other.post("/services/create", s),
        )
        assert (kept is None) != (gone is None), (kept, gone)
        if gone is None:
            used += 1
            said = f"secret '{name}' is in use by the following service: {name}"
            assert (kept.status, kept.message) == (400, said)
            assert one.get(f"/secrets/{secret_id}")["ID"] == secret_id
        else:
            removed += 1
            assert (gone.status, gone.message) == (400, f"secret not found: {name}")
            assert one.get("/services", {"name": [name]}) == []
    assert used + removed == RACES


def test_two_clients_that_remove_the_same_config_have_one_winner(swarm):
    one, other = swarm.client(), swarm.client()
    for turn in range(RACES):
        name = f"n-{turn}"
        one.post("/configs/create", config(name))
        errors = both(
            lambda n=name: one.delete(f"/configs/{n}"),
            lambda n=name: other.delete(f"/configs/{n}"),
        )
        assert sorted(e.status for e in errors if e is not None) == [404]


def test_stop_in_order_leaves_no_write_in_doubt(swarm):
    for turn in range(3):
        acked, refused = [], []
        with ThreadPoolExecutor(8) as pool:
            for writer in range(8):
                pool.submit(write_until_refused, swarm, f"s{turn}-{writer}", acked, refused)
            threading.Event().wait(0.3)
            swarm.stop()
        assert acked
        assert [text for text in refused if "nobody can say" in text] == []
        swarm.start()
        assert set(acked) <= {c["Spec"]["Name"] for c in swarm.client().get("/configs")}


def write_until_refused(daemon, name, acked, refused):
    client, turn = Client(daemon.socket, 10.0), 0
    while True:
        wanted = f"{name}-{turn}"
        try:
            client.post("/configs/create", config(wanted))
        except ApiError as error:
            refused.append(error.message)
            return
        except (OSError, http.client.HTTPException):
            return
        acked.append(wanted)
        turn += 1

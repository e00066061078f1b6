"""Whom a node asks for its certificate, and what it does when a manager is away."""

from itertools import pairwise
from random import Random

import pytest

from swarmlet.ca.csr import new_csr
from swarmlet.ca.keys import new_key
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.ca.source import MANAGERS_ASKED, RemoteAuthority
from swarmlet.core.errors import ForbiddenError, UnauthorizedError, UnavailableError
from swarmlet.model.node import IssuanceState
from swarmlet.wire.messages import ManagerAddr
from swarmlet.wire.remotes import Remotes
from tests.agent.virtual_time import START_MS, run_virtual
from tests.ca.swarm import Link, Swarm

A, B = "10.0.0.1:2377", "10.0.0.2:2377"


class World:
    """A node that knows managers at A and B."""

    def __init__(self, swarms=None):
        self.swarm = Swarm(lambda: START_MS)
        self.link = Link({A: self.swarm, B: self.swarm} if swarms is None else swarms)
        managers = [ManagerAddr(node_id="manager1", addr=addr) for addr in (A, B)]
        self.remotes = Remotes(Random(1), managers)
        credentials = self.swarm.credentials("worker", "node1")
        self.own = OwnIdentity(credentials, None)
        self.authority = RemoteAuthority(self.link, self.own, self.remotes)

    def weights(self):
        return {manager.addr: manager.weight for manager in self.remotes.all()}


CSR = new_csr(new_key(Random(5).randbytes))


def test_request_is_taken_down_for_the_node_that_the_certificate_names():
    world = World()
    assert run_virtual(world.authority.request(CSR)) == "node1"
    status = run_virtual(world.authority.status("node1"))
    assert (status.state, status.csr.encode()) == (IssuanceState.ISSUED, CSR)
    assert run_virtual(world.authority.root()) == world.swarm.root.cert_pem


@pytest.mark.parametrize("away", [A, B])
def test_manager_that_is_away_costs_one_try_and_its_weight(away):
    world = World()
    del world.link.swarms[away]
    for _ in range(20):
        run_virtual(world.authority.request(CSR))
    weights = world.weights()
    there = B if away == A else A
    assert weights[there] > 5
    assert weights[away] <= 1


def test_nobody_answers_after_three_tries():
    world = World({})
    tries = []
    world.link.at = lambda addr, name: tries.append(addr) or Link({}).at(addr, name)
    with pytest.raises(UnavailableError, match="Nobody listens"):
        run_virtual(world.authority.root())
    assert len(tries) == MANAGERS_ASKED
    assert all(one != other for one, other in pairwise(tries))


def test_refusal_is_told_at_once():
    world = World()
    world.swarm.fails["request"] = [ForbiddenError("removed")]
    with pytest.raises(ForbiddenError, match="removed"):
        run_virtual(world.authority.request(CSR))
    assert world.swarm.calls == ["request"]


def test_stranger_at_a_managers_address_is_asked_less():
    world = World()
    world.link.swarms[A] = Swarm(lambda: START_MS, seed=4)
    answers = 0
    for _ in range(20):
        try:
            run_virtual(world.authority.request(CSR))
            answers += 1
        except UnauthorizedError:
            continue
    assert answers >= 17
    assert world.weights()[A] < 0 < world.weights()[B]


def test_replaced_credentials_count_from_the_next_call_on():
    world = World()
    stranger = Swarm(lambda: START_MS, seed=2).credentials()
    good = world.own.credentials
    world.own.replace(stranger, None)
    with pytest.raises(UnauthorizedError):
        run_virtual(world.authority.request(CSR))
    world.own.replace(good, None)
    assert run_virtual(world.authority.request(CSR)) == "node1"

"""A node's side and the leader's side of certificates, together."""

import asyncio
from itertools import count

import pytest

from swarmlet.ca.enrolment import Enrolment, is_final
from swarmlet.ca.identity import verify_chain
from swarmlet.ca.join_record import JoinRecord, JoinRecordFile
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.renewer import Renewer
from swarmlet.ca.source import RemoteAuthority
from swarmlet.ca.unlock_key import answer_of, kek_of
from swarmlet.core.errors import ForbiddenError, UnauthorizedError, UnavailableError
from swarmlet.model.change import Remove
from swarmlet.model.node import IssuanceState, Node
from swarmlet.wire.messages import ManagerAddr, SwarmInfo
from swarmlet.wire.node_api import PortHello
from swarmlet.wire.remotes import Remotes
from tests.manager.authority_world import SOURCE, Fleet, extra_token, play
from tests.sim.disk import SimDisk
from tests.sim.loop import sim_env

ADDR = "192.0.2.1:2377"
NUMBERS = count()


class ToLeader:
    """NodeLink in front of a leader's CA; `loses` answers of requests that were taken down."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.loses = fleet, 0

    async def hello(self, addr):
        return PortHello(
            protocol=1, node_id="manager", cluster_id="cluster", now_ms=self.fleet.now_ms()
        )

    async def root(self, addr):
        return self.fleet.cluster.root_ca.cert_pem

    async def request_certificate(self, addr, request, credentials):
        peer = None
        if credentials.chain_pem:
            peer = verify_chain(credentials.chain_pem, await self.root(addr), None)
        ticket = await self.fleet.server.request(request, peer, SOURCE)
        if self.loses:
            self.loses -= 1
            raise UnavailableError("the answer got lost")
        return ticket

    async def certificate_status(self, addr, node_id, credentials):
        return await self.fleet.server.status(node_id, SOURCE)

    async def unlock_key(self, addr, credentials):
        assert verify_chain(credentials.chain_pem, await self.root(addr), None).role == "manager"
        return answer_of(kek_of(self.fleet.cluster))


class Host:
    """A node's disk and clock."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.link = fleet, ToLeader(fleet)
        self.env = sim_env(f"host {next(NUMBERS)}", SimDisk(), fleet.clock)
        self.files = NodeFiles(self.env.disk, "/data/certificates")

    def enrolment(self):
        async def find():
            return [ADDR]

        record = JoinRecordFile(self.env.disk, "/data/joining", self.files, self.env.entropy)
        return Enrolment(self.env, self.link, self.files, record, find)

    async def join(self, token):
        enrolment = self.enrolment()
        await enrolment.begin(JoinRecord(token=token, availability="pause"))
        enrolled = await enrolment.run()
        await enrolment.forget()
        return enrolled.own

    def renewer(self, own):
        remotes = Remotes(self.env.rng, [ManagerAddr(node_id="manager", addr=ADDR)])
        return Renewer(self.env, self.files, own, RemoteAuthority(self.link, own, remotes))


@pytest.mark.parametrize("role", ["worker", "manager"])
def test_node_joins_with_the_tokens_role_and_renews_as_itself(role):
    async def story(fleet):
        host = Host(fleet)
        own = await host.join(getattr(fleet.tokens, role))
        row, first = fleet.node(own.identity.node_id), own.identity
        assert (own.identity.role, row.spec.availability) == (role, "pause")
        await host.renewer(own).renew()
        assert own.identity.fingerprint != first.fingerprint
        assert own.identity.node_id == first.node_id
        assert host.files.identity() == own.identity

    play(story)


def test_node_that_slept_past_its_certificate_renews_even_if_an_answer_got_lost():
    async def story(fleet):
        host = Host(fleet)
        own = await host.join(fleet.tokens.worker)
        fleet.sleep_days(200)
        host.link.loses = 3  # in one call, from one manager after the other
        with pytest.raises(UnavailableError, match="got lost"):
            await host.renewer(own).renew()
        own = host.files.own_identity()  # restarted, with the old certificate
        assert own.identity.ends_ms < fleet.now_ms()
        await host.renewer(own).renew()
        assert own.identity.ends_ms > fleet.now_ms()
        fleet.sleep_days(200)
        await host.renewer(own).renew()
        assert own.identity.ends_ms > fleet.now_ms()

    play(story)


def test_join_interrupted_after_the_last_use_of_its_token_is_one_node():
    async def story(fleet):
        host = Host(fleet)
        token = await extra_token(fleet)
        enrolment = host.enrolment()
        await enrolment.begin(JoinRecord(token=token, remote_addrs=(ADDR,)))
        host.link.loses = 5
        with pytest.raises(UnavailableError, match="got lost"):
            await enrolment.run()
        restarted = host.enrolment()
        assert await restarted.resume() == JoinRecord(token=token, remote_addrs=(ADDR,))
        enrolled = await restarted.run()
        assert fleet.node(enrolled.own.identity.node_id).spec.labels == {"zone": "a"}
        nodes = [node.id for node in fleet.store.view().nodes.all() if node.id != "manager"]
        assert nodes == [enrolled.own.identity.node_id]
        assert next(iter(fleet.store.view().join_tokens.all())).uses == 1
        with pytest.raises(ForbiddenError, match="used up") as refused:
            await Host(fleet).join(token)
        assert is_final(refused.value)

    play(story)


def test_rotated_token_is_a_final_refusal():
    async def story(fleet):
        token = fleet.tokens.worker
        wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
        host = Host(fleet)
        enrolment = host.enrolment()
        await enrolment.begin(JoinRecord(token=wrong, remote_addrs=(ADDR,)))
        with pytest.raises(UnauthorizedError, match="no longer") as refused:
            await enrolment.run()
        assert is_final(refused.value)
        assert wrong not in refused.value.message + refused.value.remedy

    play(story)


def test_promoted_node_gets_a_managers_certificate_and_a_demoted_one_a_workers():
    async def story(fleet):
        host = Host(fleet)
        own = await host.join(fleet.tokens.worker)
        renewer = host.renewer(own)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(renewer.run())
            for role in ("manager", "worker"):
                await fleet.change_node(own.identity.node_id, role=role)
                renewer.heed(
                    SwarmInfo(
                        managers=(),
                        root_pem=own.credentials.root_pem,
                        certificate_state=int(IssuanceState.ISSUED),
                        role=role,
                    )
                )
                await asyncio.sleep(2)
                assert own.identity.role == role
            running.cancel()

    play(story)


def test_removed_node_is_told_so():
    async def story(fleet):
        host = Host(fleet)
        own = await host.join(fleet.tokens.worker)
        row = fleet.node(own.identity.node_id)
        await fleet.put(Remove(table=Node, id=row.id, seen=row.version))
        renewer = host.renewer(own)
        with pytest.raises(ForbiddenError, match="it was removed"):
            await renewer.renew()

    play(story)

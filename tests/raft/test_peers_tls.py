"""Members that find each other over real node ports, on both loops."""

import asyncio
import contextlib

from swarmlet.env.real import real_env
from swarmlet.raft.peers import Peers
from swarmlet.store.proposer import Member
from swarmlet.wire.client import TlsLink
from tests.raft.peer_world import Net, Node
from tests.wire.port_world import OURS, World, expired, on_both_loops


class Host(Node):
    """A member behind a port of its own."""

    def __init__(self, raft_id, credentials):
        super().__init__(Net(), f"m{raft_id}", raft_id)
        self.credentials, self.link, self.env = credentials, TlsLink(), real_env()
        self.world = World(credentials)
        self.world.service.serve_raft = self.serve_raft

    @contextlib.asynccontextmanager
    async def running(self):
        self.peers = Peers(self.env, self.member, self, self)
        self.boot += 1
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.world.port.run())]
            await self.world.port.opened.wait()
            self.member = Member(
                raft_id=self.member.raft_id, node_id=self.name, address=self.world.addr
            )
            tasks.append(group.create_task(self.peers.run()))
            try:
                yield
            finally:
                await self.link.close()
                for task in tasks:
                    task.cancel()

    async def serve_raft(self, channel, peer):
        assert channel.node_id == peer.node_id
        await self.peers.serve(channel)

    async def open(self, addr):
        return await self.link.open_raft(addr, self.credentials)


async def until(is_so):
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


def manager(raft_id):
    return OURS.credentials(f"m{raft_id}", "manager")


async def talk(one, two):
    await until(lambda: one.epochs and two.epochs)
    assert one.send(2, b"\x90to two")
    assert two.send(1, b"\x90to one")
    await until(lambda: one.frames and two.frames)
    assert (one.frames, two.frames) == ([(2, b"\x90to one")], [(1, b"\x90to two")])


@on_both_loops
async def test_members_talk_over_tls_and_find_each_other_again():
    one, two = Host(1, manager(1)), Host(2, manager(2))
    async with one.running(), two.running():
        for host in (one, two):
            host.want(one.member, two.member)
        await talk(one, two)
        (served,) = two.world.port._gate.connections
        served.abort()
        await until(lambda: len(one.told) == len(two.told) == 3)
        one.frames, two.frames = [], []
        await talk(one, two)


@on_both_loops
async def test_members_talk_with_certificates_that_have_expired():
    one, two = Host(1, expired("m1", "manager")), Host(2, expired("m2", "manager"))
    async with one.running(), two.running():
        for host in (one, two):
            host.want(one.member, two.member)
        await talk(one, two)


@on_both_loops
async def test_member_whose_port_holds_another_nodes_certificate_is_not_talked_to():
    one, two = Host(1, manager(1)), Host(2, manager(1))
    async with one.running(), two.running():
        for host in (one, two):
            host.want(one.member, two.member)
        await until(lambda: two.refusals)
        assert not one.epochs
        assert not two.epochs
        assert {reason for _, reason in two.refusals} == {"wrong-member"}

"""The wire between simulated managers, and the loop in which one of them may stand still."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest

from swarmlet.core.errors import UnavailableError
from swarmlet.wire.channel import ChannelClosedError
from tests.sim.group_loop import group_loop, run_group_sim
from tests.sim.group_net import DIAL_TIMEOUT_S, USER_TIMEOUT_S, Channel, GroupNet, SimDialer
from tests.sim.loop import SimClock


@dataclass
class Listener:
    name: str
    node_id: str
    accepted: list[Channel] = field(default_factory=list)

    def accept(self, channel):
        self.accepted.append(channel)

    def accept_snapshot(self, channel):
        raise AssertionError


def on_the_wire(story, seed=1):
    """Run `story(net, a, b, near, far)` with a connection from a to b."""
    clock = SimClock()

    async def main():
        net = GroupNet(Random(seed), Counter())
        net.loop = group_loop()
        a, b = Listener("a", "node-a"), Listener("b", "node-b")
        net.ports = {"a:1": a, "b:1": b}
        near = await SimDialer(net, a).open("b:1")
        return await story(net, a, b, near, b.accepted[0])

    return run_group_sim(clock, main())


def test_frames_arrive_in_order_from_whom_the_connection_says():
    async def story(net, a, b, near, far):
        for number in range(500):
            assert near.send(b"%d" % number)
        assert (near.node_id, far.node_id) == ("node-b", "node-a")
        return [int(await far.receive()) for _ in range(500)]

    assert on_the_wire(story) == list(range(500))


def test_short_cut_delays_and_loses_nothing():
    async def story(net, a, b, near, far):
        net.cut("a", "b")
        near.send(b"one")
        await asyncio.sleep(USER_TIMEOUT_S - 0.5)
        net.mend("a", "b")
        near.send(b"two")
        return [await far.receive(), await far.receive()], net.now_s

    frames, now_s = on_the_wire(story)
    assert frames == [b"one", b"two"]
    assert now_s > USER_TIMEOUT_S - 0.5


def test_long_cut_of_one_way_ends_the_connection_at_both_ends():
    async def story(net, a, b, near, far):
        net.cut("a", "b")
        near.send(b"lost")
        for end in (near, far):
            with pytest.raises(ChannelClosedError):
                await end.receive()
        return net.now_s

    assert on_the_wire(story) == pytest.approx(USER_TIMEOUT_S, abs=0.1)


def test_other_way_goes_on_while_one_is_cut():
    async def story(net, a, b, near, far):
        net.cut("a", "b")
        far.send(b"hello")
        return await near.receive(), net.now_s

    frame, now_s = on_the_wire(story)
    assert frame == b"hello"
    assert now_s < 1


@pytest.mark.parametrize("seed", range(5))
def test_frames_of_a_closed_connection_may_come_after_those_of_the_next(seed):
    async def story(net, a, b, near, far):
        for number in range(20):
            near.send(b"old %d" % number)
        near.close()
        newer = await SimDialer(net, a).open("b:1")
        newer.send(b"new")
        got = [await far.receive() for _ in range(20)]
        with pytest.raises(ChannelClosedError):
            await far.receive()
        return got

    assert on_the_wire(story, seed) == [b"old %d" % number for number in range(20)]


def test_killed_process_closes_and_host_without_power_says_nothing():
    async def story(net, a, b, near, far):
        near.send(b"last word")
        net.die("a", is_dark=True)
        began_s = net.now_s
        assert await far.receive() == b"last word"
        with pytest.raises(ChannelClosedError):
            await far.receive()
        silent_s, began_s = net.now_s - began_s, net.now_s
        net.live("a")
        again = await SimDialer(net, b).open("a:1")
        net.die("a", is_dark=False)
        with pytest.raises(ChannelClosedError):
            await again.receive()
        return silent_s, net.now_s - began_s

    silent_s, quick_s = on_the_wire(story)
    assert silent_s == pytest.approx(USER_TIMEOUT_S, abs=0.1)
    assert quick_s < 2


def test_dial_is_refused_at_once_or_runs_out_of_time():
    async def story(net, a, b, near, far):
        seen = []
        for begin in (lambda: net.cut("b", "a"), lambda: net.die("b", is_dark=False)):
            net.mend("b", "a")
            begin()
            began_s = net.now_s
            with pytest.raises(UnavailableError):
                await SimDialer(net, a).open("b:1")
            seen.append(net.now_s - began_s > DIAL_TIMEOUT_S)
        return seen

    assert on_the_wire(story) == [True, False]


def test_paused_member_stands_still_and_its_timers_fire_when_it_goes_on():
    clock, seen = SimClock(), []

    async def ticks(name):
        while True:
            await asyncio.sleep(1)
            seen.append((name, round(clock.now_s, 3)))

    async def main():
        loop = group_loop()
        tasks = [loop.start(name, ticks(name)) for name in "ab"]
        await asyncio.sleep(0.5)
        loop.pause("a")
        await asyncio.sleep(3)
        loop.go_on("a")
        await asyncio.sleep(1.4)
        for task in tasks:
            task.cancel()

    run_group_sim(clock, main())
    assert seen == [("b", 1), ("b", 2), ("b", 3), ("a", 3.5), ("b", 4), ("a", 4.5)]


def test_each_turn_says_whose_it_was():
    touched = {}

    async def work():
        await asyncio.sleep(1)

    async def main():
        group_loop().on_step = touched.update
        await asyncio.gather(*(group_loop().start(name, work()) for name in "ab"))

    run_group_sim(SimClock(), main())
    assert list(touched) == ["a", "b"]

"""A switch in user space: one TAP a host, so that frames can be lost, held up or cut one way.

The kernel's own tools cannot delay a frame everywhere (netem is often not there), so this is a
program: `python -m tests.cluster.switch NAME=ADDRESS/BITS,ADDRESS/BITS ...` puts a TAP called eth0
into each network namespace NAME, prints "ready" and obeys the lines of its standard input, each
answered with "ok":

    delay MS          of every frame
    loss PERCENT      of all frames, by chance
    cut A B           nothing goes from A to B; the other way it does
    heal              no cuts, no loss, no delay

It ends when its input does.
"""

import asyncio
import fcntl
import os
import random
import struct
import subprocess
import sys

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
FRAMES_PER_TURN = 64
FRAME_SIZE_MAX_B = 65_536
LOCAL_BIT = 0x02  # of a MAC address that its owner chose


def open_tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def plug_in(number: int, host: str, addresses: list[str]) -> int:
    """A TAP in the host's namespace, up, with its addresses; the descriptor of our end."""
    name = f"swt{os.getpid() % 100_000}x{number}"
    descriptor = open_tap(name)
    commands = [
        ["ip", "link", "set", name, "netns", host],
        ["ip", "-n", host, "link", "set", name, "name", "eth0"],
        *(["ip", "-n", host, "addr", "add", one, "dev", "eth0", "nodad"] for one in addresses),
        ["ip", "-n", host, "link", "set", "eth0", "up"],
        ["ip", "-n", host, "route", "add", "224.0.0.0/4", "dev", "eth0"],
    ]
    for command in commands:
        if ":" not in command[-4]:
            command = [word for word in command if word != "nodad"]
        subprocess.run(command, check=True)
    return descriptor


class Switch:
    """Learns who is where, and passes frames on as far as it is let."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = ports
        self._loop = asyncio.get_running_loop()
        self._host_of: dict[bytes, str] = {}
        self._rng = random.Random(0)
        self.ended = asyncio.Event()
        self._heal()

    def start(self) -> None:
        for host, descriptor in self._ports.items():
            self._loop.add_reader(descriptor, self._read, host)
        self._loop.add_reader(sys.stdin.fileno(), self._obey)

    def _heal(self) -> None:
        self._cuts: set[tuple[str, str]] = set()
        self._delay_s = self._loss = 0.0

    def _read(self, source: str) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                frame = os.read(self._ports[source], FRAME_SIZE_MAX_B)
            except OSError:  # no more for now, or the namespace is gone
                return
            self._host_of[frame[6:12]] = source
            known = self._host_of.get(frame[:6])
            for target in [known] if known else [host for host in self._ports if host != source]:
                self._pass_on(source, target, frame)

    def _pass_on(self, source: str, target: str, frame: bytes) -> None:
        if (source, target) in self._cuts or self._rng.random() < self._loss:
            return
        if self._delay_s:
            self._loop.call_later(self._delay_s, self._deliver, target, frame)
        else:
            self._deliver(target, frame)

    def _deliver(self, target: str, frame: bytes) -> None:
        try:
            os.write(self._ports[target], frame)
        except OSError:  # its queue is full or it is down: a switch drops frames, too
            return

    def _obey(self) -> None:
        line = sys.stdin.readline()
        if not line:
            self.ended.set()
            return
        match line.split():
            case ["delay", delay_ms]:
                self._delay_s = float(delay_ms) / 1000
            case ["loss", percent]:
                self._loss = float(percent) / 100
            case ["cut", source, target]:
                self._cuts.add((source, target))
            case ["heal"]:
                self._heal()
            case _:
                raise SystemExit(f"the switch does not know: {line!r}")
        sys.stdout.write("ok\n")
        sys.stdout.flush()


async def main(arguments: list[str]) -> None:
    ports = {}
    for number, argument in enumerate(arguments):
        host, _, addresses = argument.partition("=")
        ports[host] = plug_in(number, host, addresses.split(","))
    switch = Switch(ports)
    switch.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await switch.ended.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

"""Probes of what networks are made of, each tried in a network namespace of its own."""

from collections.abc import Sequence
from typing import Final

import msgspec

from swarmlet.doctor.finding import Judgement, Probe, ok, skipped, warn
from swarmlet.doctor.scratch import attempt, enter
from swarmlet.doctor.world import World, find, options_missing, run

VXLAN: Final = (
    "link set lo up",
    "link add vx0 type vxlan id 4097 dstport 4789 local 127.0.0.1 nolearning proxy ttl 64",
    "link set vx0 up",
)
BRIDGE: Final = (
    "link add br0 type bridge",
    "link add v0 type veth peer name v1",
    "link set v0 master br0",
    "link set br0 up",
    "link set v0 up",
)
NFTABLES: Final = """
table ip swarmlet-doctor {
  chain out {
    type nat hook output priority -100;
    ip daddr 10.255.0.1 dnat to numgen random mod 2 map { 0 : 10.255.0.2, 1 : 10.255.0.3 }
  }
  chain post { type nat hook postrouting priority 100; masquerade; }
}
"""
"""What a virtual address and the routing mesh need: nat, numgen, a map, masquerade."""
ENCRYPTION: Final = (
    "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 reqid 1 mode transport"
    " aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 64",
)
_INSTALL: Final = {"ip": "apt-get install iproute2", "nft": "apt-get install nftables"}


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """`namespace_problem` where there was no network namespace to try in; `problem` of the trial
    itself; both "" where it worked."""

    is_root: bool
    program: str  # missing where it is not ""
    namespace_problem: str = ""
    problem: str = ""
    not_built: tuple[str, ...] = ()  # options the kernel is built without, where it failed


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What is run, and the kernel's options it takes."""

    program: str
    arguments: tuple[str, ...]
    given: str
    options: tuple[str, ...]


def _try(world: World, trial: Trial) -> Tried:
    program = trial.program
    path = find(program)
    if not path:
        return Tried(is_root=world.is_root, program=program)
    if problem := attempt(lambda: enter("net")):
        return Tried(is_root=world.is_root, program="", namespace_problem=problem)
    enter("net")
    problem = run(path, *trial.arguments, given=trial.given).problem
    not_built = options_missing(trial.options) if problem else ()
    return Tried(is_root=world.is_root, program="", problem=problem, not_built=not_built)


def _ip(lines: Sequence[str], *options: str) -> Trial:
    given = "\n".join(lines) + "\n"
    return Trial(program="ip", arguments=("-batch", "-"), given=given, options=options)


def look_at_vxlan(world: World) -> Tried:
    return _try(world, _ip(VXLAN, "CONFIG_VXLAN"))


def look_at_bridge(world: World) -> Tried:
    return _try(world, _ip(BRIDGE, "CONFIG_BRIDGE", "CONFIG_VETH"))


def look_at_nftables(world: World) -> Tried:
    options = ("CONFIG_NF_TABLES", "CONFIG_NFT_NAT", "CONFIG_NFT_MASQ", "CONFIG_NFT_NUMGEN")
    trial = Trial(program="nft", arguments=("-f", "-"), given=NFTABLES, options=options)
    return _try(world, trial)


class Encryption(msgspec.Struct, frozen=True, kw_only=True):
    esp: Tried
    has_wireguard: bool  # wireguard-go, which needs nothing of the kernel but /dev/net/tun


def look_at_encryption(world: World) -> Encryption:
    return Encryption(
        esp=_try(world, _ip(ENCRYPTION, "CONFIG_INET_ESP", "CONFIG_CRYPTO_GCM")),
        has_wireguard=bool(find("wireguard-go")),
    )


def judge_vxlan(facts: Tried) -> Judgement:
    return _judge(facts, "A VXLAN link can be made", "modprobe vxlan")


def judge_bridge(facts: Tried) -> Judgement:
    return _judge(facts, "A bridge and a veth pair can be made", "modprobe -a bridge veth")


def judge_nftables(facts: Tried) -> Judgement:
    return _judge(
        facts, "nftables can translate and balance addresses", "modprobe -a nf_tables nft_nat"
    )


def judge_encryption(facts: Encryption) -> Judgement:
    found = _judge(facts.esp, "ESP with AES-GCM can be set up", "modprobe -a esp4 xfrm_user")
    if found.verdict == "warn" and facts.has_wireguard:
        return ok("The kernel has no ESP with AES-GCM, but wireguard-go is installed.")
    if facts.esp.problem:
        also = f"{found.remedy}, or apt-get install wireguard-go"
        return msgspec.structs.replace(found, remedy=also)
    return found


def _judge(facts: Tried, what: str, remedy: str) -> Judgement:
    if facts.program:
        return warn(f"`{facts.program}` is not installed.", _INSTALL[facts.program])
    if facts.namespace_problem and not facts.is_root:
        return skipped(
            f"An ordinary user cannot try it here ({facts.namespace_problem}).",
            "sudo swarmlet doctor",
        )
    if facts.namespace_problem:
        return warn(
            f"There is no network namespace to try it in ({facts.namespace_problem}).",
            "run it on the host itself; in a container, docker run --privileged ...",
        )
    if facts.not_built:
        lacks = " and ".join(facts.not_built)
        return warn(f"It failed: {facts.problem}.", f"another kernel: this one has no {lacks}")
    if facts.problem:
        return warn(f"It failed: {facts.problem}.", remedy)
    return ok(f"{what}." if facts.is_root else f"{what}, inside a user namespace.")


PROBES: Final = (
    Probe(
        name="bridge",
        matters_for="networks",
        look=look_at_bridge,
        judge=judge_bridge,
    ),
    Probe(
        name="vxlan",
        matters_for="overlay networks",
        look=look_at_vxlan,
        judge=judge_vxlan,
    ),
    Probe(
        name="nftables",
        matters_for="virtual addresses, the routing mesh",
        look=look_at_nftables,
        judge=judge_nftables,
    ),
    Probe(
        name="encryption",
        matters_for="encrypted overlay networks",
        look=look_at_encryption,
        judge=judge_encryption,
    ),
)

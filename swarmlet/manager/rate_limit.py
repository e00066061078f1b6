"""How often strangers may try and nodes may ask, over a given clock, in bounded memory.

A join token has 128 bits, so nobody guesses one; the limits keep guessing, and broken clients, from
costing the leader more than a little. Whoever has a good one pays into a large bucket of its own,
so 200 nodes behind one address join at once, and wrong ones do not use it up.
"""

import ipaddress
import math
from typing import Final

import msgspec

from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import NodeID

ADDRESSES_MAX: Final = 10_000  # remembered at once; the longest unseen is forgotten first
IPV6_PREFIX: Final = 64  # one host may have all addresses of its network


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """`burst` at once, then one more every `refill_s`."""

    burst: int
    refill_s: float


FAILURES_OF_ONE: Final = Rate(burst=20, refill_s=3.0)  # bad attempts from one address
FAILURES_OF_ALL: Final = Rate(burst=1_000, refill_s=0.05)
JOINS_OF_ALL: Final = Rate(burst=5_000, refill_s=0.05)
RENEWALS_OF_ONE: Final = Rate(burst=20, refill_s=10.0)  # of one node, its certificate being valid
EXPIRED_OF_ONE: Final = Rate(burst=5, refill_s=60.0)  # of one node whose certificate has expired

# Of a node without a quiet time. SwarmKit has 3, but here a new certificate or root has a node
# register anew, and one that may not for more than three seconds counts as lost.
REGISTRATIONS_MAX: Final = 10
NEWS_MAX: Final = 12  # the same with another certificate or root each time
FORGIVEN_OF_ONE: Final = Rate(burst=20, refill_s=5.0)  # ends in order that count as quiet times
REGISTRATION_QUIET_S: Final = 8.0  # SwarmKit dispatcher/dispatcher.go


class _Bucket(msgspec.Struct):
    level: float
    at_s: float


class Buckets:
    """One bucket a key, all of one rate. A key that was forgotten begins anew."""

    def __init__(self, rate: Rate, *, keys_max: int = ADDRESSES_MAX) -> None:
        self._rate, self._keys_max = rate, keys_max
        self._buckets: dict[str, _Bucket] = {}  # the longest unseen first

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, key: str, now_s: float) -> float:
        """How long until this key may be taken from; 0: now."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return 0.0
        return max(0.0, (1.0 - self._level(bucket, now_s)) * self._rate.refill_s)

    def take(self, key: str, now_s: float) -> None:
        """Count one; the bucket is never emptier than empty."""
        bucket = self._buckets.pop(key, None)
        level = self._rate.burst if bucket is None else self._level(bucket, now_s)
        if len(self._buckets) >= self._keys_max:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[key] = _Bucket(max(0.0, level - 1.0), now_s)

    def _level(self, bucket: _Bucket, now_s: float) -> float:
        refilled = max(0.0, now_s - bucket.at_s) / self._rate.refill_s
        return min(float(self._rate.burst), bucket.level + refilled)


class JoinLimits:
    """Attempts to join by token."""

    def __init__(self) -> None:
        self._joins, self._failures = Buckets(JOINS_OF_ALL), Buckets(FAILURES_OF_ALL)
        self._failures_of = Buckets(FAILURES_OF_ONE)

    def begin(self, source: str, now_s: float) -> None:
        """Let an attempt in, before anything is looked at. Raises UnavailableError."""
        key = address_key(source)
        refuse(
            self._failures_of.wait_s(key, now_s),
            "Too many wrong join tokens came from this address.",
        )
        refuse(self._failures.wait_s("", now_s), "Too many wrong join tokens came in.")
        refuse(self._joins.wait_s("", now_s), "Too many nodes join at once.")

    def succeeded(self, now_s: float) -> None:
        """The attempt had a good token."""
        self._joins.take("", now_s)

    def failed(self, source: str, now_s: float) -> None:
        """The attempt had no good token, or asked for what cannot be."""
        self._failures_of.take(address_key(source), now_s)
        self._failures.take("", now_s)


class RenewalLimits:
    """Renewals, node by node: what one node does says nothing of the others."""

    def __init__(self) -> None:
        self._valid, self._expired = Buckets(RENEWALS_OF_ONE), Buckets(EXPIRED_OF_ONE)

    def take(self, node_id: str, now_s: float, *, is_expired: bool) -> None:
        """Raises UnavailableError."""
        buckets = self._expired if is_expired else self._valid
        refuse(buckets.wait_s(node_id, now_s), f"Node {node_id} asks for certificates too often.")
        buckets.take(node_id, now_s)


class RegistrationRate:
    """A node that registers over and over is refused until it was quiet for a while. Pure."""

    def __init__(self) -> None:
        # By when each last came: that moment, how often, and how often with news.
        self._known: dict[NodeID, tuple[float, int, int]] = {}
        self._forgiven = Buckets(FORGIVEN_OF_ONE)

    def wait_s(self, node_id: NodeID, now_s: float, *, is_news: bool = False) -> float:
        """How long the node has to wait; 0 where it may register now, which then counts. With
        `is_news` it says something new of its certificate: a root rotation makes every node
        register several times in a row."""
        self._forget_quiet(now_s)
        at_s, count, news = self._known.get(node_id, (now_s, 0, 0))
        count, news = (count, news + 1) if is_news else (count + 1, news)
        if count > REGISTRATIONS_MAX or news > NEWS_MAX:
            return at_s + REGISTRATION_QUIET_S - now_s
        self._known.pop(node_id, None)
        self._known[node_id] = (now_s, count, news)
        return 0.0

    def forgive(self, node_id: NodeID, now_s: float) -> None:
        """It stopped in order: what comes next is a restart, or has another certificate. Not more
        often than honest nodes do: a goodbye costs nothing to say."""
        if self._forgiven.wait_s(node_id, now_s) > 0:
            return
        self._forgiven.take(node_id, now_s)
        self._known.pop(node_id, None)

    def _forget_quiet(self, now_s: float) -> None:
        for node_id, (at_s, _, _) in list(self._known.items()):
            if now_s - at_s < REGISTRATION_QUIET_S:
                return
            del self._known[node_id]


def address_key(source: str) -> str:
    """What counts as one address: the address without its port, of IPv6 the network of 64 bits."""
    host = source
    if source.startswith("["):
        host = source[1:].partition("]")[0]
    elif source.count(":") == 1:
        host = source.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


def refuse(wait_s: float, why: str) -> None:
    """Raises UnavailableError with when to come again, unless that is now."""
    if wait_s > 0:
        raise UnavailableError(f"{why} Try again in {math.ceil(wait_s)} s.")

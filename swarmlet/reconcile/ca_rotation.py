"""Which nodes still show a certificate of another signer than the one that should sign, and whom to
ask for a renewal next (behaviour of SwarmKit's ca/reconciler.go).

A node is asked by its row: state ROTATE. It renews, registers anew and reports who signed; only
what it reports counts, never what was handed to it. A node that is away keeps the request and finds
it when it comes back.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec.structs import replace

from swarmlet.core.ids import NodeID
from swarmlet.model.change import Event, Update
from swarmlet.model.node import IssuanceState, Node, NodeState
from swarmlet.model.view import View

ROUND_NODES_MAX: Final = 30  # asked at once; SwarmKit ca/reconciler.go
SETTLE_S: Final = 5.0  # for a node with a new certificate to register with it
FAILED_PAUSE_S: Final = 60.0  # before a node whose renewal failed is asked again

_UNDER_WAY: Final = (IssuanceState.RENEW, IssuanceState.PENDING, IssuanceState.ROTATE)


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs certificates, as nodes report it: subject and public key as DER."""

    subject: bytes
    public_key: bytes


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """Whose signature every node should show. `is_rotation`: nodes that never reported anything
    count as well, for the old signer goes when this is reached."""

    issuer: Issuer
    is_rotation: bool


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the nodes are where they should be, and who may keep the rest from it: `silent`
    never reported a certificate, `away` are not ready. Ids in order."""

    turned: int
    total: int
    silent: tuple[NodeID, ...] = ()
    away: tuple[NodeID, ...] = ()


def shows(node: Node, issuer: Issuer) -> bool:
    """Whether the node reports a certificate of this issuer."""
    reported = node.description.tls_info
    return (
        reported.cert_issuer_public_key == issuer.public_key
        and reported.cert_issuer_subject == issuer.subject
    )


def is_silent(node: Node) -> bool:
    """Whether the node never reported who signed its certificate."""
    return not node.description.tls_info.cert_issuer_public_key


class Turning:
    """The nodes that do not show the aim's issuer yet: found once, then kept up to date by events.

    A round costs a walk over those nodes alone. `now_s` is monotonic.
    """

    def __init__(self, view: View, aim: Aim) -> None:
        self.aim = aim
        self._left: dict[str, None] = {}  # in the order of their ids, then of the log
        self._moved_s: dict[str, float] = {}  # when their certificate last changed its state
        for node in sorted(view.nodes.all(), key=lambda row: row.id):
            if self._is_left(node):
                self._left[node.id] = None

    @property
    def is_complete(self) -> bool:
        return not self._left

    def __len__(self) -> int:
        return len(self._left)

    def see(self, event: Event, now_s: float) -> bool:
        """Take in a change of a node's row. Whether there may be something to do now: a node to
        be asked, or nobody left."""
        node = event.new
        if not isinstance(node, Node) or not self._is_left(node):
            was_left = self._left.pop(event.id, 0) is None
            self._moved_s.pop(event.id, None)
            return was_left and self.is_complete
        self._left.setdefault(node.id)
        if isinstance(event.old, Node) and event.old.certificate.state != node.certificate.state:
            self._moved_s[node.id] = now_s
        return node.certificate.state not in _UNDER_WAY

    def waits(self, view: View) -> bool:
        """Whether everybody left was asked: only they can bring it further."""
        return all(node.certificate.state in _UNDER_WAY for node in self._nodes(view))

    def requests(self, view: View, now_s: float) -> tuple[Update, ...]:
        """Ask the next nodes, a round's worth of them, to renew."""
        found: list[Update] = []
        for node in self._nodes(view):
            if len(found) == ROUND_NODES_MAX:
                break
            if self._may_be_asked(node, now_s):
                certificate = replace(node.certificate, state=int(IssuanceState.ROTATE))
                row = replace(node, certificate=certificate)
                found.append(Update(obj=row, seen=node.version))
        return tuple(found)

    def progress(self, view: View) -> Progress:
        """Linear in the nodes that are left."""
        left = sorted(self._nodes(view), key=lambda node: node.id)
        silent = tuple(node.id for node in left if is_silent(node))
        away = tuple(
            node.id for node in left if node.status.state != NodeState.READY and not is_silent(node)
        )
        total = len(view.nodes)
        return Progress(turned=total - len(left), total=total, silent=silent, away=away)

    def _is_left(self, node: Node) -> bool:
        if is_silent(node):
            return self.aim.is_rotation
        return not shows(node, self.aim.issuer)

    def _nodes(self, view: View) -> Iterator[Node]:
        for node_id in self._left:
            node = view.nodes.get(node_id)
            if node is not None:
                yield node

    def _may_be_asked(self, node: Node, now_s: float) -> bool:
        state = node.certificate.state
        if state in _UNDER_WAY:
            return False
        pause_s = FAILED_PAUSE_S if state == IssuanceState.FAILED else SETTLE_S
        moved_s = self._moved_s.get(node.id)
        return moved_s is None or now_s - moved_s >= pause_s

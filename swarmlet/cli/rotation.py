"""How far a root rotation is, and waiting for its end."""

import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

import click

from swarmlet.cli.certificate import certificate_of_node
from swarmlet.cli.client import Client, Object
from swarmlet.cli.errors import EXIT_INTERRUPTED
from swarmlet.cli.format import natural, one_line
from swarmlet.cli.world import mono_s, sleep_s

POLL_PERIOD_S: Final = 0.2  # docker's
STALL_S: Final = 5.0  # without a change: then the nodes' own problems are asked for
FOLLOW_PATIENCE_S: Final = 30.0  # for nodes to follow what was decided
NAMES_MAX: Final = 5  # nodes named in one line


class Progress(NamedTuple):
    """`turned`: nodes with a certificate of the signer of now; `settled`: those of them that report
    the swarm's root as theirs; `following`: those that are ready and not settled yet. `waits_for`:
    who holds it up and why. `late`: ids of nodes that could turn by themselves."""

    is_over: bool
    turned: int
    settled: int
    following: int
    total: int
    waits_for: tuple[str, ...] = ()
    late: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        text = f"{self.turned} of {self.total} nodes have a new certificate"
        named = list(self.waits_for[:NAMES_MAX])
        if more := len(self.waits_for) - len(named):
            named.append(f"{more} more")
        return f"{text}; waiting for {', '.join(named)}" if named else text


def progress_of(swarm: Object, nodes: Sequence[Object]) -> Progress:
    """From what `GET /swarm` and `GET /nodes` show; docker counts the same way."""
    wanted = swarm.get("TLSInfo") or {}
    left = [node for node in nodes if not _is_turned(_trust(node), wanted)]
    left.sort(key=lambda node: (natural(_name(node)), node["ID"]))
    unsettled = [node for node in nodes if not _is_settled(_trust(node), wanted)]
    held_up = [(node, why) for node in left if (why := _why(node))]
    return Progress(
        is_over=not swarm.get("RootRotationInProgress"),
        turned=len(nodes) - len(left),
        settled=len(nodes) - len(unsettled),
        following=sum(not _why(node) for node in unsettled),
        total=len(nodes),
        waits_for=tuple(f"{_name(node)} ({why})" for node, why in held_up),
        late=tuple(node["ID"] for node in left if not _why(node)),
    )


def _trust(node: Object) -> Object:
    found: Object = (node.get("Description") or {}).get("TLSInfo") or {}
    return found


def _is_turned(shown: Object, wanted: Object) -> bool:
    fields = ("CertIssuerPublicKey", "CertIssuerSubject")
    return all(shown.get(field) == wanted.get(field) for field in fields)


def _is_settled(shown: Object, wanted: Object) -> bool:
    return _is_turned(shown, wanted) and shown.get("TrustRoot") == wanted.get("TrustRoot")


def _name(node: Object) -> str:
    return str((node.get("Description") or {}).get("Hostname") or node["ID"])


def _why(node: Object) -> str:
    """Why a node without a new certificate gets none now, or ""."""
    state = (node.get("Status") or {}).get("State", "")
    if not _trust(node).get("CertIssuerPublicKey"):
        return "never reported a certificate"
    return "" if state == "ready" else state or "unknown"


def root_digest(root_pem: str) -> str:
    """As docker writes it."""
    from hashlib import sha256

    return f"sha256:{sha256(root_pem.encode()).hexdigest()}"


def root_digest_of(swarm: Object) -> str:
    """Of the root that is trusted now."""
    return root_digest((swarm.get("TLSInfo") or {}).get("TrustRoot", ""))


def wait(client: Client, root_pem: str, *, quiet: bool) -> Object:
    """Return the swarm when its nodes trust one root and show its certificates; those that are off
    are waited for only while they hold the rotation up. `root_pem` was trusted before.

    Ctrl-C ends the command, not the rotation: exit code 130, and a sentence that says so.
    """
    display = _Display(is_quiet=quiet)
    try:
        swarm, progress = _watch(client, display)
    except KeyboardInterrupt:
        display.end()
        click.echo(
            "\nThe rotation goes on in the background. `swarmlet ca` and `swarmlet info` show how "
            "far it is; do not repeat `--rotate`.",
            err=True,
        )
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    display.end()
    _conclude(display, root_pem, swarm, progress)
    return swarm


def _conclude(display: "_Display", old_pem: str, swarm: Object, progress: Progress) -> None:
    is_new = (swarm.get("TLSInfo") or {}).get("TrustRoot", "") != old_pem
    digest = root_digest_of(swarm)
    if is_new:
        display.say(f"The swarm trusts the root {digest} now, and its join tokens are new.")
    else:
        display.say(f"The swarm keeps the root {digest}, and its join tokens.")
    if late := progress.total - progress.settled:
        display.say(f"Note: {late} of {progress.total} nodes follow when they are back.")


def _watch(client: Client, display: "_Display") -> tuple[Object, Progress]:
    seen, moved_s, over_s = (0, 0), mono_s(), 0.0
    problems: tuple[str, ...] = ()
    while True:
        swarm, nodes = client.get("/swarm"), client.get("/nodes")
        progress, now_s = progress_of(swarm, nodes), mono_s()
        if progress.is_over:
            over_s = over_s or now_s
            if not progress.following or now_s - over_s > FOLLOW_PATIENCE_S:
                return swarm, progress
            display.show(f"{progress.settled} of {progress.total} nodes trust the swarm's root")
        else:
            if (progress.turned, progress.total) != seen:
                seen, moved_s, problems = (progress.turned, progress.total), now_s, ()
            elif now_s - moved_s > STALL_S:
                problems, moved_s = _problems(client, progress.late), now_s
            shown = progress._replace(waits_for=(*problems, *progress.waits_for))
            display.show(shown.sentence)
        sleep_s(POLL_PERIOD_S)


def _problems(client: Client, late: Sequence[str]) -> tuple[str, ...]:
    """Why the first of the nodes that are ready have no new certificate yet."""
    found = []
    for node_id in late[:NAMES_MAX]:
        certificate = certificate_of_node(client, node_id)
        why = certificate.get("Err") or certificate.get("State") or "no certificate"
        found.append(f"{node_id} ({one_line(why)})")
    return tuple(found)


class _Display:
    """One line on stderr: drawn over itself on a terminal, a line a change elsewhere."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_quiet, self._last = is_quiet, ""
        self._is_terminal = sys.stderr.isatty() and "NO_COLOR" not in os.environ

    def show(self, text: str) -> None:
        if self._is_quiet or text == self._last:
            return
        self._last = text
        if not self._is_terminal:
            click.echo(text, err=True)
            return
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        click.echo(f"\r\x1b[2K{text[: width - 1]}", err=True, nl=False)

    def say(self, text: str) -> None:
        if not self._is_quiet:
            click.echo(text, err=True)

    def end(self) -> None:
        if self._is_terminal and self._last and not self._is_quiet:
            click.echo("", err=True)
